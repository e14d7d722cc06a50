"use strict";
// Sends pictures to /v1/score and shows the results. Texts of results are inserted as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP, MARGIN, SQUARE] = [352, 110, 44, 8, 32];  // of the histogram and the map, in SVG units
const byId = (id) => document.getElementById(id);
const refused = [];  // cards to send again when a token is given
let token = "", waiting = Promise.resolve(), bundle = null;

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function draw(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const percent = (rate) => `${+(100 * rate).toPrecision(3)} %`;
const short = (number) => String(+number.toPrecision(3));

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
  } catch {
    throw new Refusal(0, "The service does not answer.");
  }
  const body = await answer.json();
  if (body.error) {
    const seconds = answer.headers.get("Retry-After");
    throw new Refusal(answer.status, body.error.message + (seconds ? `; try again in ${seconds} s` : ""));
  }
  return body;
}

async function score(file, fields) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted");
  form.append("request", JSON.stringify(fields));
  const { results: [result] } = await ask("v1/score", { method: "POST", body: form });
  return result;
}

function readBundle() {
  bundle ??= ask("v1/bundle").catch((error) => {
    bundle = null;
    throw error;
  });
  return bundle;
}

function sayWhatItMeans(result) {
  const policy = result.policy, why = [result.reason_codes.join(", "), result.detail].filter(Boolean).join(": ");
  if (result.reason_codes.includes("stated_generated") && !result.faces.some((face) => face.decision === result.decision))
    return `${result.decision === "flag" ? "Flagged" : "For review by a person"}, but not for a score: ${
      result.reason_codes[0] === "stated_generated" ? result.detail : "the image states that it was generated"}. Anybody
      can write such a statement, unless it is signed and trusted. The faces have decisions of their own.`;
  switch (result.decision) {
    case "flag":
      return `Flagged: unlike the photographs this bundle knows. It does not mean that the face is generated: the policy
        flags ${percent(policy.flag_false_alarm_rate)} of photographed faces by mistake. A person decides.`;
    case "review":
      return result.status === "scored"
        ? `For review by a person. It does not mean that the face is generated: ${percent(policy.review_false_alarm_rate)}
          of photographed faces get at least this decision by mistake.`
        : `For review by a person: no face could be scored (${why}).`;
    case "pass":
      return "Passed: not unlike the photographs this bundle knows. It does not mean that the face is a photograph.";
  }
  return result.status === "no_face"
    ? "No face was found, so nothing was decided."
    : `Not scored, so nothing was decided (${why}).`;
}

function stateFace(face, number) {
  return `Face ${number}: ${face.decision}, ${face.p_value === null ? "no score" : `p = ${short(face.p_value)}`}`;
}

function drawBoxes(result, choose) {
  const { width, height } = result.image;
  const boxes = result.faces.map((face, index) => {
    const [x, y, w, h] = face.box;
    const box = draw("rect", { x, y, width: w, height: h, class: `box box-${face.decision}` },
      draw("title", {}, stateFace(face, index + 1)));
    box.addEventListener("click", () => choose(index));
    return box;
  });
  return draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...boxes);
}

// The bars are the photographs that the p-value of the face was taken against.
function drawHistogram(position, nats, thresholds) {
  const [low, high] = [position.edges_nats[0], position.edges_nats.at(-1)];
  const scale = (value) => MARGIN + Math.min(1, Math.max(0, (value - low) / (high - low))) * (WIDTH - 2 * MARGIN);
  const highest = Math.max(...position.counts), base = TOP + HEIGHT;
  const bars = position.counts.map((count, index) => {
    const [from, to] = [position.edges_nats[index], position.edges_nats[index + 1]];
    const tall = HEIGHT * count / highest;
    return draw("rect", { x: scale(from), y: base - tall, width: Math.max(scale(to) - scale(from) - 1, .5), height: tall },
      draw("title", {}, `${from.toFixed(0)} to ${to.toFixed(0)} nats: ${count} faces`));
  });
  const lines = [...thresholds, ["face", nats, "this face at"]].flatMap(([kind, value, text], row) => {
    if (value === null) return [];
    const x = scale(value), near = x < WIDTH / 2, y = 10 + 14 * row;
    const beyond = value < low || value > high ? ", beyond all photographs" : "";
    return [
      draw("line", { class: `${kind}-line`, x1: x, x2: x, y1: y, y2: base }),
      draw("text", { x: near ? x + 4 : x - 4, y, "text-anchor": near ? "start" : "end" }, `${text} ${value.toFixed(0)}${beyond}`),
    ];
  });
  const label = (x, y, anchor, text) => draw("text", { class: "label", x, y, "text-anchor": anchor }, text);
  return draw("svg", { viewBox: `0 0 ${WIDTH} ${base + 34}`, role: "img",
    "aria-label": "Histogram of the photographs by log-likelihood, with this face" },
    draw("g", { class: "bars-main" }, ...bars),
    draw("line", { class: "axis", x1: 0, x2: WIDTH, y1: base, y2: base }), ...lines,
    label(MARGIN, base + 16, "start", low.toFixed(0)), label(WIDTH - MARGIN, base + 16, "end", high.toFixed(0)),
    label(WIDTH / 2, base + 30, "middle", "log-likelihood in nats, low: unlike photographs"));
}

function drawOcclusion(explanation) {
  const rows = explanation.occlusion.changes_nats, side = rows.length * SQUARE;
  const largest = Math.max(...rows.flat().map(Math.abs)) || 1;
  const squares = rows.flatMap((row, y) => row.map((change, x) => draw("rect", {
    class: change > 0 ? "rise" : "fall", x: x * SQUARE, y: y * SQUARE, width: SQUARE, height: SQUARE,
    "fill-opacity": .75 * Math.abs(change) / largest,
  })));
  const crop = draw("image", { href: explanation.crop_png, width: side, height: side });
  return draw("svg", { viewBox: `0 0 ${side} ${side}`, role: "img",
    "aria-label": "The crop as the network saw it, with the change of the log-likelihood where a square is covered" },
    crop, ...squares);
}

function listReasons(explanation) {
  return [
    make("p", {}, explanation.meaning.join(" ")),
    make("ul", {}, ...explanation.sentences.map((sentence) => make("li", {}, sentence))),
    make("figure", { class: "sheet" }, drawOcclusion(explanation), make("figcaption", {},
      "What the network saw. Orange: with this square covered, the face is more like photographs; blue: less like them. " +
      "The map shows what this network reacts to, not what is wrong with a face.")),
  ];
}

async function showFace(card, result, index) {
  const face = result.faces[index], place = card.querySelector(".detail");
  card.querySelectorAll(".faces button").forEach((each, at) => each.setAttribute("aria-pressed", at === index));
  card.querySelectorAll(".box").forEach((each, at) => each.classList.toggle("box-chosen", at === index));
  if (face.p_value === null) {
    place.replaceChildren(make("p", {}, `This face has no score (${face.reason_codes.join(", ")}): a person must decide.`));
    return;
  }
  const name = face.calibrated_by === "stratum" ? face.stratum : "pooled";
  const position = (await readBundle()).calibration[name];
  const chart = make("figure", { class: "sheet" }, drawHistogram(position, face.log_likelihood, []),
    make("figcaption", {}, `p = ${short(face.p_value)}: the share of held-out photographed faces that are at most as
      likely as this one, this one included (${name === "pooled" ? "all photographs" : `stratum ${name}`}). The bars are these photographs.`));
  const reasons = make("div", { class: "reasons", "aria-live": "polite" });
  const button = make("button", { type: "button", onclick: explain }, "Reasons");
  async function explain() {
    button.disabled = true;
    reasons.replaceChildren("Working…");
    try {
      const faces = [{ face_id: face.face_id, box: face.box }];
      const { explanation } = await score(card.file, { faces, explain: true });
      if (!explanation) throw new Error("The reasons could not be measured now; try again.");
      const { flag_nats: flag, review_nats: review } = explanation.calibration;
      const thresholds = [["flag", flag, "flag below"], ["review", review === flag ? null : review, "review below"]];
      chart.firstChild.replaceWith(drawHistogram(explanation.calibration, face.log_likelihood, thresholds));
      reasons.replaceChildren(...listReasons(explanation));
      button.remove();
    } catch (error) {
      reasons.replaceChildren(error.message);
      button.disabled = false;
    }
  }
  place.replaceChildren(chart, result.clip ? "" : button, reasons);
}

function showResult(card, result) {
  const choose = (index) => showFace(card, result, index).catch((error) => fail(card, error));
  const picture = make("div", { class: "picture" });
  const image = make("img", { src: card.url, alt: `The picture ${card.name}` });
  image.addEventListener("error", () => picture.replaceWith(
    make("p", { class: "note" }, "This browser cannot show this kind of file.")));
  picture.append(image);
  if (result.faces.length && !result.clip) picture.append(drawBoxes(result, choose));
  const json = URL.createObjectURL(new Blob([JSON.stringify(result, null, 1)], { type: "application/json" }));
  card.addEventListener("remove", () => URL.revokeObjectURL(json));
  card.replaceChildren(
    make("h2", {}, make("bdi", {}, card.name)),
    make("div", { class: result.decision === "pass" ? "verdict" : "verdict warning" },
      make("p", {}, make("strong", { class: `decision-${result.decision}` }, result.decision ?? "no decision")),
      make("p", {}, sayWhatItMeans(result))),
    picture,
    make("ul", { class: "row faces" }, ...result.faces.map((face, index) => make("li", {},
      make("button", { type: "button", "aria-pressed": "false", onclick: () => choose(index) }, stateFace(face, index + 1))))),
    make("div", { class: "detail" }),
    make("div", { class: "row" },
      make("a", { class: "button", href: json, download: `${card.name}.json` }, "Download the JSON"),
      make("button", { type: "button", onclick: () => removeCard(card) }, "Remove")));
  if (result.faces.length) choose(leastTypical(result.faces));
}

function leastTypical(faces) {
  const worth = (face) => face.log_likelihood ?? Infinity;
  return faces.reduce((best, face, index) => (worth(face) < worth(faces[best]) ? index : best), 0);
}

function removeCard(card) {
  card.dispatchEvent(new Event("remove"));
  URL.revokeObjectURL(card.url);
  card.remove();
  byId("files").focus();
}

function fail(card, error) {
  if (error.status === 401) {
    byId("access").hidden = false;
    byId("token").focus();
    refused.push(card);
  }
  card.replaceChildren(
    make("h2", {}, make("bdi", {}, card.name)),
    make("p", { class: "verdict warning" }, `Not scored: ${error.message}.`),
    make("div", { class: "row" },
      make("button", { type: "button", onclick: () => send(card) }, "Try again"),
      make("button", { type: "button", onclick: () => removeCard(card) }, "Remove")));
}

// One picture at a time, so that a folder of pictures does not fill the queue of the service.
function send(card) {
  card.replaceChildren(make("h2", {}, make("bdi", {}, card.name)), make("p", {}, "Scoring…"));
  waiting = waiting.then(async () => {
    if (!card.isConnected) return;
    try {
      const result = await score(card.file, {});
      showResult(card, result);
      byId("status").textContent = `${card.name}: ${result.decision ?? "no decision"}`;
    } catch (error) {
      fail(card, error);
      byId("status").textContent = `${card.name}: not scored`;
    }
  });
}

function add(files) {
  for (const file of files) {
    const card = make("article");
    Object.assign(card, { file, name: file.name || "pasted", url: URL.createObjectURL(file) });
    byId("results").append(card);
    send(card);
  }
}

byId("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("access").hidden = true;
  refused.splice(0).forEach(send);
});
