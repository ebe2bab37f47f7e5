"use strict";
(() => {
  const root = document.documentElement;
  const all = (what, inside = document) => [...inside.querySelectorAll(what)];
  const make = (tag, text, properties = {}) =>
    Object.assign(document.createElement(tag), { textContent: text }, properties);

  // Libraries and figures are packed: gzip in base64.
  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(plain).text();
  };
  let charts = null, configs = null, sheets = null, shown = [];
  const plots = all(".plot");
  const views = new Map();
  const hidden = new Set();

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
  // Names of rows that are too long take several lines, and rows are as high as these.
  const pen = make("canvas", "").getContext("2d");
  const lines = (name, room) => {
    const fits = (text) => pen.measureText(text.trim()).width <= room;
    const parts = [/(?<=, )/, /(?<= )/, /(?<=[-_:./])/].reduce((found, end) =>
      found.flatMap((part) => (fits(part) ? [part] : part.split(end))), [name]);
    return parts.reduce((found, part) => (found.length && fits(found.at(-1) + part)
      ? [...found.slice(0, -1), found.at(-1) + part] : [...found, part]), []).map((line) => line.trim());
  };
  const wrapRows = (view, axis) => {
    const inner = [...(view.layer || []), ...(view.vconcat || [])].map((one) => wrapRows(one, axis));
    let most = Math.max(1, ...inner);
    const y = (view.encoding || {}).y;
    if (y?.type === "nominal") {
      const names = y.scale.domain.map(String), texts = names.map((name) => lines(name, axis.labelLimit));
      const own = Math.max(...texts.map((text) => text.length));
      const text = `${JSON.stringify(texts)}[indexof(${JSON.stringify(names)}, datum.label)]`;
      if (own > 1) y.axis = { ...y.axis, labelExpr: text };
      most = Math.max(most, own);
    }
    if (view.height?.step) view.height.step = Math.max(view.height.step, (axis.labelFontSize + 2) * most + 6);
    return most;
  };
  const centreLines = (axes, size) => axes.filter((axis) => axis.orient === "left").forEach((axis) => {
    const update = axis.encode?.labels?.update, text = update?.text?.signal;
    if (text) update.dy = { signal: `${-(size + 2) / 2} * (length(${text}) - 1)` };
  });
  // A chart without the methods that are hidden, and without the rows that they alone have.
  const visible = (name) => {
    const spec = structuredClone(charts[name]);
    if (!hidden.size) return spec;
    const points = spec.data.values = spec.data.values.filter((point) => !hidden.has(point.method));
    const left = (field) => new Set(points.map((point) => point[field]));
    const trim = (view) => {
      [...(view.layer || []), ...(view.vconcat || [])].forEach(trim);
      ["x", "y"].forEach((axis) => {
        const place = (view.encoding || {})[axis];
        if (place?.type !== "nominal") return;
        const known = left(place.field);
        place.scale.domain = place.scale.domain.filter((one) => known.has(one));
        if (view.data) view.data.values = view.data.values.filter((one) => known.has(one[place.field]));
      });
    };
    const own = spec.data;
    delete spec.data;
    trim(spec);
    spec.data = own;
    return spec;
  };
  // A click on a name of a legend hides the method, another one shows it.
  const clickable = (legends) => {
    const faded = { signal: `indexof(${JSON.stringify([...hidden])}, datum.value) < 0 ? 1 : 0.3` };
    legends.filter((legend) => legend.type !== "gradient").forEach((legend) => ["symbols", "labels"].forEach((part) => {
      const given = legend.encode?.[part] || {};
      const update = { ...given.update, opacity: faded, cursor: { value: "pointer" } };
      legend.encode = { ...legend.encode, [part]: { ...given, interactive: true, update } };
    }));
  };
  const drawn = new Set();
  const draw = (plot) => {
    if (!charts) return;
    drawn.add(plot);
    const name = plot.dataset.figure;
    views.get(plot)?.finalize();
    const config = fitted(name, plot.clientWidth), own = visible(name);
    pen.font = `${config.axis.labelFontSize}px ${config.font}`;
    wrapRows(own, config.axis);
    const spec = vegaLite.compile(own, { config, logger: vega.logger(vega.Error) }).spec;
    clickable(spec.legends || []);
    centreLines(spec.axes || [], config.axis.labelFontSize);
    const view = new vega.View(vega.parse(spec, null, { ast: true }), {
      expr: vegaInterpreter.expressionInterpreter, renderer: "svg", container: plot, hover: true,
    });
    views.set(plot, view);
    view.tooltip(tooltip).addEventListener("click", (event, item) => {
      if (item?.mark.role.startsWith("legend-") && shown.includes(item.datum?.value)) toggle(item.datum.value);
    }).run();
  };
  const redraw = () => drawn.forEach(draw);

  // Methods that are shown: in every chart, or in none.
  const bar = document.querySelector(".methods");
  const buttons = bar ? all("button", bar) : [];
  const toggle = (method) => {
    if (!hidden.delete(method)) hidden.add(method);
    if (shown.every((one) => hidden.has(one))) hidden.clear(); // an empty chart tells nothing
    buttons.forEach((one) => one.setAttribute("aria-pressed", String(!hidden.has(one.textContent))));
    redraw();
  };
  buttons.forEach((one) => one.addEventListener("click", () => toggle(one.textContent)));

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
      all(".cards").forEach((card) => { card.hidden = card.id !== select.value; });
    });
  }

  // Tables: a click on a heading sorts, the field filters, the link leads to the raw figures.
  const numbered = (cell) => cell.dataset.v ?? (cell.classList.contains("words") ? "" : cell.textContent);
  const key = (cell) => {
    const number = parseFloat(String(numbered(cell)).replaceAll(",", "").replace("\u2212", "-"));
    return Number.isNaN(number) ? cell.textContent.trim().toLowerCase() : number;
  };
  const sorted = (rows, at, down) => {
    const compare = (a, b) => typeof a === typeof b
      ? (typeof a === "number" ? a - b : a.localeCompare(b)) * (down ? -1 : 1)
      : (typeof a === "number" ? -1 : 1); // what has no figure stands last
    return rows.map((row) => [key(row.cells[at]), row]).sort((a, b) => compare(a[0], b[0])).map((one) => one[1]);
  };
  const furnish = (sheet) => {
    const body = sheet.querySelector("tbody"), rows = [...body.rows], heads = all("th", sheet);
    heads.forEach((head, at) => {
      const name = head.textContent, sort = make("button", name, { type: "button", title: "Sort" });
      sort.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((one) => one.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        body.append(...sorted([...body.rows], at, down));
      });
      head.replaceChildren(sort);
    });
    const tools = make("p", "", { className: "tools" });
    const count = make("span", "", { className: "hint" });
    count.setAttribute("aria-live", "polite");
    if (rows.length > 5) {
      const field = make("input", "", { type: "search", placeholder: "Filter rows" });
      field.setAttribute("aria-label", `Filter rows: ${sheet.querySelector(".scroll").getAttribute("aria-label")}`);
      const texts = rows.map((row) => row.textContent.replaceAll("\u00a0", " ").toLowerCase());
      field.addEventListener("input", () => {
        const parts = field.value.toLowerCase().split(/\s+/).filter(Boolean);
        rows.forEach((row, at) => { row.hidden = !parts.every((part) => texts[at].includes(part)); });
        const left = rows.filter((row) => !row.hidden).length;
        count.textContent = left < rows.length ? `${left} of ${rows.length} rows` : "";
      });
      tools.append(field);
    }
    const link = make("a", "CSV", { href: "#", download: `${sheet.dataset.table}.csv` });
    link.setAttribute("aria-label", `Download as CSV: ${sheet.dataset.table}`);
    link.addEventListener("click", (event) => {
      if (!sheets) { event.preventDefault(); return; }
      link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(sheets[sheet.dataset.table])}`;
    });
    tools.append(link, count);
    sheet.prepend(tools);
  };
  all(".sheet").forEach(furnish);

  // On paper: light, every chart drawn.
  addEventListener("beforeprint", () => { setTheme("light"); plots.forEach(draw); });
  addEventListener("afterprint", () => setTheme(wanted()));

  setTheme(wanted());
  const watcher = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
  }), { rootMargin: "600px" });
  let waiting = 0, width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  const begin = async () => {
    const [code, text] = await Promise.all([unpack("library"), unpack("data")]);
    const data = JSON.parse(text);
    document.head.append(make("script", code));
    sheets = data.tables;
    shown = data.methods;
    configs = data.configs;
    charts = data.charts;
    if (bar) bar.hidden = false;
    plots.forEach((plot) => watcher.observe(plot));
  };
  begin().catch((error) => {
    console.error(error);
    plots.forEach((plot) => { plot.textContent = "This browser cannot draw the chart (it needs one of 2023 or later). The table holds the same figures."; });
  });
})();
