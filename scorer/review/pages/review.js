"use strict";
// Shows one face at a time, blurred and grey until asked otherwise, and sends each label at once.

const byId = (id) => document.getElementById(id);
const NAMES = { photograph: "real photograph", generated: "generated", unsure: "unsure" };
let faces = [], reviewer = "", at = 0;

const own = (face) => face.labels[reviewer];

function press(button, pressed) {
  button.setAttribute("aria-pressed", pressed);
}

function veil(id, name, on) {
  byId("face").classList.toggle(name, on);
  press(byId(id), on);
}

function tell(text, conflict = false) {
  byId("said").textContent = text;
  byId("said").classList.toggle("conflict", conflict);
}

// What others said is shown after the reviewer's own label, so that it does not decide it.
function showLabels() {
  const face = faces[at], done = faces.filter(own).length;
  byId("place").textContent = `Face ${at + 1} of ${faces.length}; ${done} labelled by ${reviewer}`;
  for (const button of byId("labels").children) press(button, button.dataset.label === own(face));
  const others = Object.entries(face.labels).filter(([name]) => name !== reviewer);
  if (!own(face) || !others.length) return tell(own(face) ? `Saved: ${NAMES[own(face)]}.` : "");
  const conflict = others.some(([, label]) => label !== own(face));
  const said = others.map(([name, label]) => `${name || "somebody"}: ${NAMES[label]}`).join(", ");
  tell(`Saved: ${NAMES[own(face)]}. ${conflict ? "Conflict. " : ""}${said}.`, conflict);
}

function show(index) {
  at = Math.max(0, Math.min(faces.length - 1, index));
  const face = faces[at], image = byId("face");
  veil("blur", "blurred", true);  // before the picture changes
  image.hidden = false;
  byId("absent").hidden = true;
  image.src = `faces/${at}.jpg`;
  const why = face.reason_codes.includes("stated_generated") ? "the image states that it was generated" : "another face";
  const decision = face.face_decision + (face.decision === face.face_decision ? "" : `; image: ${face.decision} (${why})`);
  const facts = { image: face.content_id, face: face.face_id, decision, p: face.p_value.toPrecision(3), camera: face.camera ?? "not stated" };
  byId("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  showLabels();
}

async function label(value) {
  const index = at, body = JSON.stringify({ face: index, label: value });
  try {
    const answer = await fetch("labels", { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    faces[index].labels = (await answer.json()).labels;
  } catch (error) {
    tell(`Not saved: ${error.message}. Try again.`, true);
    return;
  }
  if (index === at) showLabels();
}

const actions = {
  r: () => label("photograph"), g: () => label("generated"), u: () => label("unsure"),
  n: () => show(at + 1), p: () => show(at - 1),
  b: () => veil("blur", "blurred", !byId("face").classList.contains("blurred")),
  c: () => veil("grey", "grey", !byId("face").classList.contains("grey")),
};

document.addEventListener("keydown", (event) => {
  const action = actions[event.key];
  if (!action || !faces.length || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  event.preventDefault();
  action();
});
byId("face").addEventListener("error", () => {
  byId("face").hidden = true;
  byId("absent").hidden = false;
});
byId("blur").addEventListener("click", actions.b);
byId("grey").addEventListener("click", actions.c);
byId("next").addEventListener("click", actions.n);
byId("previous").addEventListener("click", actions.p);
for (const button of byId("labels").children) button.addEventListener("click", () => label(button.dataset.label));

fetch("faces", { cache: "no-store" }).then((answer) => answer.json()).then((found) => {
  ({ faces, reviewer } = found);
  const first = faces.findIndex((face) => !own(face));
  if (faces.length) show(first < 0 ? 0 : first);
  else byId("place").textContent = "The run has no scored face.";
});
