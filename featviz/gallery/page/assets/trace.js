// The plot of a unit's activation over the steps of its image, a line per subject, as SVG.

const DASHES = ["", "7 3", "", "9 3 2 3", "2 3", "12 4"];  // of the subjects, whose colors stand in page.css

function tracePlot(stored, item) {
  const { subjects } = featviz.summary;
  const lines = subjects.map((name, n) => ({ name, n, points: tracePoints(stored, n) })).filter((line) => line.points.length > 1);
  if (!lines.length) return element("p", { class: "missing" }, "No trace is known.");
  const [width, height, left, bottom, top] = [460, 260, 52, 40, 12];
  const all = lines.flatMap((line) => line.points);
  const steps = Math.max(...all.map(([step]) => step));
  const values = all.map(([, value]) => value);
  const spare = 0.05 * (Math.max(...values) - Math.min(0, ...values)) || 1;
  const [low, high] = [Math.min(0, ...values) - spare, Math.max(...values) + spare];
  const ticks = niceTicks(low, high, 5).filter((tick) => tick >= low && tick <= high);
  const x = (step) => left + (step - 1) / Math.max(1, steps - 1) * (width - left - 10);
  const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "trace", role: "img", "aria-label": `Activation over ${steps} steps of ${labelOf(item)}, for ${lines.map((line) => line.name).join(", ")}` });
  for (const tick of ticks) {
    svg.append(drawn("line", { x1: left, x2: width - 10, y1: y(tick), y2: y(tick), class: "rule" }),
      drawn("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, String(tick).replace("-", "\u2212")));
  }
  for (const tick of niceTicks(1, steps, 5).filter((value) => value <= steps && Number.isInteger(value))) {
    const step = Math.max(1, tick);
    svg.append(drawn("text", { x: x(step), y: height - bottom + 16, "text-anchor": "middle" }, String(step)));
  }
  svg.append(drawn("text", { x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, "step"));
  for (const { n, points } of lines) {
    svg.append(drawn("polyline", {
      points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "),
      class: `line subject-${n % DASHES.length}`, "stroke-dasharray": DASHES[n % DASHES.length],
    }));
  }
  return element("div", {}, svg, element("ul", { class: "legend" }, lines.map(({ name, n }) => element("li", {},
    drawn("svg", { viewBox: "0 0 28 8", class: "key trace", "aria-hidden": "true" }, drawn("line", { x1: 0, x2: 28, y1: 4, y2: 4, class: `line subject-${n % DASHES.length}`, "stroke-dasharray": DASHES[n % DASHES.length] })), name))));
}

// [step, activation] of a subject, without what is not known.
function tracePoints(stored, n) {
  return (stored.trace?.[n] ?? []).map((value, k) => [stored.traceSteps[k], value]).filter(([, value]) => value !== null);
}

// Round numbers that cover a range, about `count` of them.
function niceTicks(low, high, count) {
  const span = high - low || Math.abs(high) || 1;
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough - 1e-12);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, n) => Number(((first + n) * step).toPrecision(12)));
}
