"use strict";
(() => {
  const root = document.documentElement;
  const drawings = JSON.parse(document.getElementById("drawings").textContent);
  const plots = [...document.querySelectorAll(".plot")];
  const settings = {
    displaylogo: false,
    responsive: true,
    scrollZoom: false,
    modeBarButtonsToRemove: ["sendChartToCloud", "sendDataToCloud", "lasso2d", "select2d", "zoom2d",
      "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"],
  };

  // "@blue" stands for the colour --blue of the style sheet, light or dark.
  const resolve = (value, style) => {
    if (typeof value === "string") {
      return /^@[a-z]+$/.test(value) ? style.getPropertyValue(`--${value.slice(1)}`).trim() : value;
    }
    if (Array.isArray(value)) return value.map((part) => resolve(part, style));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, style)]));
    }
    return value;
  };
  const words = (value) => (value && typeof value === "object" ? value : {});
  const draw = (plot) => {
    const style = getComputedStyle(root);
    const { data, layout } = drawings[plot.dataset.figure];
    const keep = { text: 1, name: 1, customdata: 1, ticktext: 1, legendgroup: 1, x: 1, y: 1, z: 1 };
    const coloured = data.map((trace) => Object.fromEntries(Object.entries(trace).map(
      ([key, value]) => [key, keep[key] ? value : resolve(value, style)])));
    const axis = (given) => ({ ...resolve({ ...given, ticktext: null, title: null }, style),
      ticktext: given.ticktext, title: given.title });
    const laid = { ...resolve({ ...layout, xaxis: null, yaxis: null, annotations: null }, style),
      xaxis: axis(words(layout.xaxis)), yaxis: axis(words(layout.yaxis)),
      annotations: (layout.annotations || []).map((note) => ({
        ...resolve({ ...note, text: "" }, style), text: note.text })) };
    laid.font.family = style.getPropertyValue("--sans");
    return Plotly.react(plot, coloured, laid, settings);
  };
  const drawn = new Set();
  const drawAll = () => plots.forEach((plot) => { drawn.add(plot); draw(plot); });
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
  addEventListener("beforeprint", () => { setTheme("light"); drawAll(); });
  addEventListener("afterprint", () => setTheme(wanted()));

  setTheme(wanted());
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting || drawn.has(entry.target)) return;
    drawn.add(entry.target);
    draw(entry.target);
  }), { rootMargin: "600px" });
  plots.forEach((plot) => {
    plot.style.minHeight = `${drawings[plot.dataset.figure].layout.height}px`;
    watcher.observe(plot);
  });
})();
