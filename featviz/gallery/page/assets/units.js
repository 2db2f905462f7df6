// Units of the page, {layer, at}: layer's number and position in it. What is known of them, search, filters and order.

const VALUES = [
  ["score", "match score"],
  ["margin", "match margin"],
  ["agreement", "agreement c"],
  ["fidelity", "fidelity f"],
];

function namedValues() {
  return [...VALUES, ...featviz.summary.subjects.map((name, n) => [`activation.${n}`, `activation in ${name}`])];
}

function layerOf(item) {
  return featviz.summary.layers[item.layer];
}

function valueOf(item, key) {
  const { columns } = layerOf(item);
  const [name, part] = key.split(".");
  const value = columns[name]?.[item.at] ?? null;
  return part === undefined || value === null ? value : value[Number(part)] ?? null;
}

const unitOf = (item) => valueOf(item, "unit");
const labelOf = (item) => `${layerOf(item).name}:${unitOf(item)}`;
const verdictOf = (item) => valueOf(item, "verdict") ?? NOT_MEASURED;
const isDead = (item, subject) => (valueOf(item, "dead") ?? []).includes(subject);

// The unit that a subject shows; null where it has no such unit.
function ownUnit(item, subject) {
  const own = valueOf(item, "own");
  return own === null ? unitOf(item) : own[subject];
}

// The name of the network of which B' is the permuted one.
function originalB() {
  const second = featviz.summary.subjects[1] ?? "B";
  return second.replace(/['\u2032]+$/, "") || second;
}

// "A:17 = B:126", or what else is known of the unit's index.
function indices(item) {
  const b = valueOf(item, "b");
  if (valueOf(item, "combined")) return `merged unit ${unitOf(item)}`;
  if (b === null || featviz.summary.subjects.length < 2) return `unit ${unitOf(item)}`;
  return `${featviz.summary.subjects[0]}:${ownUnit(item, 0) ?? unitOf(item)} = ${originalB()}:${b}`;
}

function fateText(item) {
  const verdict = verdictOf(item);
  const likeliest = valueOf(item, "likeliest");
  return verdict === "undecided" && likeliest ? `undecided (${likeliest}?)` : fateName(verdict);
}

function itemsOf(layer) {
  return Array.from({ length: featviz.summary.layers[layer].columns.count }, (_, at) => ({ layer, at }));
}

// What a search text means: {layers: numbers, holds: item -> whether it is meant}, or null where it can mean nothing.
function parseSearch(text) {
  const all = featviz.summary.layers;
  const named = (part) => {
    const exact = all.findIndex((layer) => layer.name === part);
    if (exact >= 0) return [exact];
    const low = part.toLowerCase();
    return [...all.keys()].filter((n) => all[n].name.toLowerCase().includes(low));
  };
  const exact = all.findIndex((layer) => layer.name === text);
  if (exact >= 0) return { layers: [exact], holds: () => true };
  if (/^\d+$/.test(text)) return { layers: [...all.keys()], holds: (item) => unitOf(item) === Number(text) };
  const found = /^([^]*):\s*(\d+)$/.exec(text);
  if (!found) return { layers: named(text), holds: () => true };
  const unit = Number(found[2]);
  const head = found[1].trim();
  const own = all.findIndex((layer) => layer.name === head);
  if (own >= 0) return { layers: [own], holds: (item) => unitOf(item) === unit };
  for (const network of [...featviz.summary.subjects, originalB()]) {
    if (head !== network && !(head.endsWith(network) && /\s$/.test(head.slice(0, -network.length)))) continue;
    const layers = head === network ? [...all.keys()] : named(head.slice(0, -network.length).trim());
    const subject = featviz.summary.subjects.indexOf(network);
    const shown = subject >= 0 ? (item) => ownUnit(item, subject) : (item) => valueOf(item, "b");
    if (layers.length) return { layers, holds: (item) => shown(item) === unit };
  }
  return { layers: named(head), holds: (item) => unitOf(item) === unit };
}

// The units that a route asks for, before filters; loads the layers that it needs.
async function unitsOf(route) {
  let layers;
  let holds = () => true;
  if (route.has("search")) ({ layers, holds } = parseSearch(route.get("search").trim()));
  else if (route.has("all")) layers = [...featviz.summary.layers.keys()];
  else layers = [layerNumber(route.get("layer"))].filter((n) => n >= 0);
  for (const layer of layers) await loadLayer(layer);
  return layers.flatMap(itemsOf).filter(holds);
}

function layerNumber(name) {
  return featviz.summary.layers.findIndex((layer) => layer.name === name);
}

// Those that pass the filters of a route: fate=..., dead=yes or no, min.KEY=..., max.KEY=...
function filtered(items, route) {
  const fates = route.getAll("fate");
  const dead = route.get("dead");
  const tests = [];
  if (fates.length) tests.push((item) => fates.includes(fateName(verdictOf(item))));
  if (dead === "yes") tests.push((item) => valueOf(item, "dead")?.length > 0);
  if (dead === "no") tests.push((item) => !valueOf(item, "dead")?.length);
  for (const [key] of namedValues()) {
    for (const [side, sign] of [["min", 1], ["max", -1]]) {
      const text = route.get(`${side}.${key}`);
      const bound = Number(text);
      if (!text || Number.isNaN(bound)) continue;
      tests.push((item) => {
        const value = valueOf(item, key);
        return value !== null && sign * (value - bound) >= 0;
      });
    }
  }
  return items.filter((item) => tests.every((test) => test(item)));
}

// In the order of a route: sort=KEY ascending, sort=-KEY descending; what is not known comes last.
function sorted(items, route) {
  const asked = route.get("sort") ?? "";
  const sign = asked.startsWith("-") ? -1 : 1;
  const key = asked.replace(/^-/, "");
  if (!key || key === "unit") return sign < 0 ? items.toReversed() : items;
  const order = featviz.summary.verdicts.map((known) => known.name);
  const rank = {
    fate: (item) => (verdictOf(item) ? order.indexOf(verdictOf(item)) : null),
    dead: (item) => -(valueOf(item, "dead") ?? []).length,
  }[key] ?? ((item) => valueOf(item, key));
  const ranked = items.map((item) => [rank(item), item]);
  ranked.sort(([one], [other]) => {
    if (one === null || other === null) return (one === null) - (other === null);
    return sign * (one - other);
  });
  return ranked.map(([, item]) => item);
}
