// Agreement c against fidelity f: a dot per unit. One link lies over the dot that is nearest to the pointer, or that the
// arrow keys chose, so that ten thousand dots are ten thousand links without ten thousand elements.

const MOST_DOTS = 60000;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 44 };
const REACH = 24;  // pixels from a dot within which it is pointed at

async function addScatter(body) {
  const { layers } = featviz.summary;
  const total = layers.reduce((sum, layer) => sum + layer.units, 0);
  const choice = element("select", { id: "scatter-layer" },
    total <= MOST_DOTS ? element("option", { value: "" }, "all layers") : null,
    layers.map((layer, n) => (layer.units ? element("option", { value: n }, layer.name) : null)));
  const plot = element("div", { class: "scatter" });
  const note = element("p", { class: "note" });
  body.append(element("h2", { id: "scatter-title" }, "Agreement of the parents, fidelity of the merge"),
    element("p", { class: "prose" }, "Each dot is a unit and leads to its panel. Far right: both parents have the feature. Far up: the merged unit answers as the parents' mean. "
      + "With the keyboard, move to the plot by Tab and from dot to dot by the left and right arrow keys."),
    element("p", { class: "controls" }, element("label", { for: "scatter-layer" }, "Units of "), choice), plot, note);
  const drawing = new Scatter(plot);
  const show = async () => {
    const chosen = choice.value === "" ? layers.keys() : [Number(choice.value)];
    let items = [];
    for (const n of chosen) {
      await loadLayer(n);
      items = items.concat(itemsOf(n));
    }
    const points = items.filter((item) => valueOf(item, "agreement") !== null && valueOf(item, "fidelity") !== null);
    const missing = items.length - points.length;
    note.textContent = missing ? `${plural(missing, "unit")} without c or f ${missing === 1 ? "is" : "are"} not in the plot.` : "";
    drawing.show(points);
  };
  choice.addEventListener("change", show);
  await show();
}

class Scatter {
  constructor(box) {
    this.box = box;
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.axes = drawn("svg", { "aria-hidden": "true" });
    this.tip = element("span", { class: "tip" });
    this.link = element("a", { class: "dot", href: "#" }, this.tip);
    this.empty = element("p", { class: "missing", hidden: true }, "No unit here has both values.");
    box.append(this.canvas, this.axes, this.link, this.empty);
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerdown", (event) => this.point(event));
    box.addEventListener("pointerleave", () => { if (document.activeElement !== this.link) this.link.classList.remove("shown"); });
    this.link.addEventListener("focus", () => this.link.classList.add("shown"));
    this.link.addEventListener("blur", () => this.link.classList.remove("shown"));
    this.link.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(box);
    onTheme(() => this.draw());
  }

  show(items) {
    this.items = items.toSorted((one, other) => valueOf(one, "agreement") - valueOf(other, "agreement"));
    this.c = Float32Array.from(this.items, (item) => valueOf(item, "agreement"));
    this.f = Float32Array.from(this.items, (item) => valueOf(item, "fidelity"));
    const low = (values) => values.reduce((least, value) => Math.min(least, value), 0);
    this.low = [low(this.c), low(this.f)].map((value) => Math.floor(value * 5) / 5);
    this.chosen = this.items.length - 1;
    this.empty.hidden = this.items.length > 0;
    this.link.hidden = !this.items.length;
    this.draw();
  }

  draw() {
    const [width, height] = [this.box.clientWidth, this.box.clientHeight];
    if (!this.items || !width) return;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const inner = [width - MARGIN.left - MARGIN.right, height - MARGIN.top - MARGIN.bottom];
    this.x = (c) => MARGIN.left + (c - this.low[0]) / (1.02 - this.low[0]) * inner[0];
    this.y = (f) => MARGIN.top + (1.02 - f) / (1.02 - this.low[1]) * inner[1];
    this.drawAxes(width, height);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    context.globalAlpha = this.items.length > 2000 ? 0.55 : 0.85;
    const radius = this.items.length > 2000 ? 2.2 : 3.4;
    const colors = new Map();
    this.items.forEach((item, n) => {
      const verdict = verdictOf(item);
      if (!colors.has(verdict)) colors.set(verdict, resolvedColor(this.box, fateColor(verdict)));
      context.fillStyle = colors.get(verdict);
      context.beginPath();
      context.arc(this.x(this.c[n]), this.y(this.f[n]), radius, 0, 7);
      context.fill();
    });
    if (this.items.length) this.place(this.chosen);
  }

  drawAxes(width, height) {
    this.axes.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.axes.replaceChildren();
    const line = (x1, y1, x2, y2) => this.axes.append(drawn("line", { x1, y1, x2, y2, class: "rule" }));
    const text = (x, y, anchor, words, more = {}) => this.axes.append(drawn("text", { x, y, "text-anchor": anchor, ...more }, words));
    const [bottom, right] = [height - MARGIN.bottom, width - MARGIN.right];
    const step = width < 500 ? 0.4 : 0.2;
    for (let c = Math.ceil(this.low[0] / step - 1e-9) * step; c < 1.01; c += step) {
      line(this.x(c), MARGIN.top, this.x(c), bottom);
      text(this.x(c), bottom + 16, "middle", c.toFixed(1).replace("-0.0", "0.0").replace("-", "\u2212"));
    }
    for (let f = Math.ceil(this.low[1] / 0.2 - 1e-9) * 0.2; f < 1.01; f += 0.2) {
      line(MARGIN.left, this.y(f), right, this.y(f));
      text(MARGIN.left - 8, this.y(f) + 4, "end", f.toFixed(1).replace("-0.0", "0.0").replace("-", "\u2212"));
    }
    text((MARGIN.left + right) / 2, height - 6, "middle", "agreement c of the parents");
    text(14, (MARGIN.top + bottom) / 2, "middle", "fidelity f of the merged unit", { transform: `rotate(-90 14 ${(MARGIN.top + bottom) / 2})` });
  }

  point(event) {
    if (!this.items?.length) return;
    const bounds = this.box.getBoundingClientRect();
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    let [nearest, least] = [-1, REACH ** 2];
    for (let n = 0; n < this.c.length; n += 1) {
      const distance = (this.x(this.c[n]) - x) ** 2 + (this.y(this.f[n]) - y) ** 2;
      if (distance < least) [nearest, least] = [n, distance];
    }
    this.link.classList.toggle("shown", nearest >= 0);
    if (nearest >= 0) this.place(nearest);
  }

  place(n) {
    const item = this.items[n];
    this.chosen = n;
    const [x, y] = [this.x(this.c[n]), this.y(this.f[n])];
    this.link.style.setProperty("left", `${x}px`);
    this.link.style.setProperty("top", `${y}px`);
    this.link.classList.toggle("leftward", x > this.box.clientWidth / 2);
    this.link.href = addressOf(withUnit(new URLSearchParams(), item));
    this.tip.textContent = `${labelOf(item)}: ${fateText(item)}, c ${correlation(this.c[n])}, f ${correlation(this.f[n])}`;
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.place(Math.min(this.items.length - 1, Math.max(0, this.chosen + step)));
    say(this.tip.textContent);
  }
}

// A color of CSS, variables and theme resolved, for a canvas.
function resolvedColor(inside, color) {
  const probe = element("span", { "--fate": color, class: "swatch", hidden: true });
  inside.append(probe);
  const found = getComputedStyle(probe).backgroundColor;
  probe.remove();
  return found;
}
