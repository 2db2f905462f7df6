"use strict";
// Elements, numbers and words that all parts of the page use.

const SVG = "http://www.w3.org/2000/svg";

// An element with attributes, event listeners (keys that begin with "on") and children; text is only ever text.
function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

// Three significant digits; words where there is no number.
function number(value, missing = "not known") {
  if (value === null || value === undefined) return missing;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2) : size >= 100 ? value.toFixed(0) : value.toPrecision(3);
  return text.replace("-", "\u2212");
}

// Two decimals, for correlations.
function correlation(value, missing = "not measured", decimals = 2) {
  return value === null || value === undefined ? missing : value.toFixed(decimals).replace("-", "\u2212");
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

function say(text) {
  byId("status").textContent = text;
}

const NOT_MEASURED = "";  // the verdict of a unit without a fate
const FATE_WORDS = {
  kept: "The parents agree on this feature more than unmatched units do, and the merged unit is closest to its own row in every parent.",
  blended: "Not kept, but closest to the mean of its row: the merged unit answers as the average of parents' units that differ.",
  lost: "Not closest to its own row in any parent, nor in the parents' means: the feature is gone.",
  dead: "The merged unit does not vary.",
  undecided: "Other images would give another verdict. The likeliest one stands in parentheses.",
};

function fateName(verdict) {
  return verdict || "not measured";
}

function fateWords(verdict) {
  if (!verdict) return "No fate was measured for these units.";
  if (Object.hasOwn(FATE_WORDS, verdict)) return FATE_WORDS[verdict];
  return `The merged unit is closest to its own row in one parent only: the feature is ${verdict}.`;
}

// Colors by Okabe and Ito, from the summary; black and gray follow the theme.
function fateColor(verdict) {
  if (!verdict) return "var(--unmeasured)";
  if (verdict === "dead") return "var(--dead)";
  if (verdict === "undecided") return "var(--undecided)";
  return featviz.summary.verdicts.find((known) => known.name === verdict)?.color ?? "var(--unmeasured)";
}

function swatch(verdict) {
  return element("span", { class: "swatch", "--fate": fateColor(verdict), "aria-hidden": "true" });
}

// An image in a box of the page: enlarged by 3 or more its pixels stay sharp, else it is smoothed.
function picture(url, alt, shown) {
  const made = element("img", { alt, decoding: "async", draggable: "false" });
  made.addEventListener("load", () => made.classList.toggle("pixels", shown() >= 3 * made.naturalWidth));
  made.addEventListener("error", () => made.replaceWith(element("span", { class: "absent" }, "cannot be read")));
  made.src = url;
  return made;
}
