"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const charts = read("charts"), configs = read("configs");
  const plots = [...document.querySelectorAll(".plot")];
  const views = new Map();

  // What a pointer at a point is told; set as text, so that labels stay words.
  const tip = document.getElementById("tip");
  const tooltip = (handler, event, item, value) => {
    tip.hidden = !value;
    if (!value) return;
    tip.textContent = value;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, innerWidth - width - 8);
    const above = event.clientY - height - 12;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above < 8 ? event.clientY + 18 : above}px`;
  };
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

  // Names and legends take no more room than the chart has.
  const fitted = (name, width) => {
    const config = structuredClone(configs[root.dataset.theme]);
    const narrow = width < 560;
    const label = narrow ? 0.36 * width : 240;
    config.axis.labelLimit = label;
    const names = [...new Set((charts[name].data.values || []).map((point) => String(point.method)))];
    const longest = Math.max(...names.map((one) => one.length), 1);
    config.legend.columns = Math.max(1, Math.floor(width / (Math.min(7 * longest, 260) + 44)));
    if (narrow) Object.assign(config.axis, { labelFontSize: 11, titleFontSize: 11.5 });
    return config;
  };
  // A click on the legend hides a method, another one shows it.
  const clickable = (legends) => {
    const faded = { signal: "indexof(hidden, datum.value) < 0 ? 1 : 0.3" };
    legends.forEach((legend) => ["symbols", "labels"].forEach((part) => {
      const given = legend.encode?.[part] || {};
      const update = { ...given.update, opacity: faded, cursor: { value: "pointer" } };
      legend.encode = { ...legend.encode, [part]: { ...given, interactive: true, update } };
    }));
    return (view, item) => {
      if (!item?.mark.role.startsWith("legend-") || item.datum?.value === undefined) return;
      const hidden = view.signal("hidden"), method = item.datum.value;
      const rest = hidden.filter((one) => one !== method);
      view.signal("hidden", rest.length < hidden.length ? rest : [...hidden, method]).run();
    };
  };
  const drawn = new Set();
  const draw = (plot) => {
    drawn.add(plot);
    const name = plot.dataset.figure;
    views.get(plot)?.finalize();
    const width = plot.clientWidth;
    const spec = vegaLite.compile(charts[name], { config: fitted(name, width) }).spec;
    const hiding = charts[name].params ? clickable(spec.legends || []) : () => {};
    const view = new vega.View(vega.parse(spec, null, { ast: true }), {
      expr: vegaInterpreter.expressionInterpreter, renderer: "svg", container: plot, hover: true,
    });
    views.set(plot, view);
    view.tooltip(tooltip).addEventListener("click", (event, item) => hiding(view, item)).run();
  };
  const redraw = () => drawn.forEach(draw);

  // Light or dark: as the system says until the reader chooses.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const setTheme = (name) => {
    root.dataset.theme = name;
    button.setAttribute("aria-pressed", String(name === "dark"));
    button.textContent = name === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", name === "dark" ? "Switch to light" : "Switch to dark");
    redraw();
  };
  const wanted = () => chosen || (system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(wanted()));
  button.addEventListener("click", () => {
    chosen = wanted() === "dark" ? "light" : "dark";
    setTheme(chosen);
  });

  // Which ticket the first screen is about.
  const select = document.getElementById("ticket");
  if (select) {
    select.addEventListener("change", () => {
      document.querySelectorAll(".cards").forEach((card) => { card.hidden = card.id !== select.value; });
    });
  }

  // On paper: light, every chart drawn.
  addEventListener("beforeprint", () => { setTheme("light"); plots.forEach(draw); });
  addEventListener("afterprint", () => setTheme(wanted()));

  setTheme(wanted());
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
  }), { rootMargin: "600px" });
  plots.forEach((plot) => watcher.observe(plot));
  let waiting = 0, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
})();
