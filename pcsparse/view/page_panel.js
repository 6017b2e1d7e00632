// the panel: what can be coloured, the classes with their counts, and the values of a picked point

const MODE_NAMES = {
  labels: "class", prediction: "prediction", error: "error", confidence: "confidence",
  intensity: "intensity", height: "height", instance: "instance",
};
const byId = (id) => document.getElementById(id);

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const css = (rgb) => `rgb(${rgb.join(",")})`;
const percent = (part, whole) => {
  const share = whole ? (100 * part) / whole : 0;
  return share > 0 && share < 0.1 ? "<0.1 %" : `${share.toFixed(1)} %`;
};

function modesOf(columns) {
  const has = (column) => columns.includes(column);
  return MODES.filter((mode) => mode === "height" || (mode === "error" ? has("labels") && has("prediction") : has(mode)));
}

// one radio button a mode; arrow keys go from one to the next
function fillModes(modes, choose) {
  const group = byId("modes");
  modes.forEach((mode, i) => {
    const button = element("button", MODE_NAMES[mode], { type: "button", role: "radio", "data-mode": mode, title: `Key ${i + 1}` });
    button.addEventListener("click", () => choose(mode));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const next = modes[(i + step + modes.length) % modes.length];
      choose(next);
      group.querySelector(`[data-mode="${next}"]`).focus();
      event.preventDefault();
    });
    group.append(button);
  });
}

function showMode(mode) {
  for (const button of byId("modes").children) {
    const chosen = button.dataset.mode === mode;
    button.setAttribute("aria-checked", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
}

function showBar(ramp, range, unit) {
  byId("bar").hidden = !range;
  if (!range) return;
  const context = byId("ramp").getContext("2d");
  const image = context.createImageData(256, 1);
  image.data.set(ramp);
  context.putImageData(image, 0, 0);
  byId("low").textContent = Number(range[0].toPrecision(3));
  byId("high").textContent = Number(range[1].toPrecision(3));
  byId("unit").textContent = unit;
}

// rows: {key, name, color, n, note, shown}; toggled(key, shown)
function fillList(list, rows, whole, toggled) {
  list.replaceChildren(...rows.map((row) => {
    const item = element("li", undefined, { "data-name": row.name });
    const label = element("label");
    const box = element("input", undefined, { type: "checkbox" });
    box.checked = row.shown;
    box.addEventListener("change", () => {
      item.classList.toggle("off", !box.checked);
      toggled(row.key, box.checked);
    });
    const swatch = element("i");
    swatch.style.background = css(row.color);
    label.append(box, swatch, element("b", row.name), element("span", row.note ?? row.n.toLocaleString("en")), element("span", percent(row.n, whole)));
    item.classList.toggle("off", !row.shown);
    item.append(label);
    return item;
  }));
}

function showPicked(point, classes, extra, close) {
  const card = byId("picked");
  card.hidden = !point;
  if (!point) return card.replaceChildren();
  const button = element("button", "×", { type: "button", "aria-label": "Close the point's values" });
  button.addEventListener("click", close);
  const values = element("dl");
  const add = (name, value) => values.append(element("dt", name), element("dd", value, { "data-value": name }));
  const nameOf = (number) => (number === NONE ? classes.at(-1).name : classes[number].name);
  "xyz".split("").forEach((axis, i) => add(axis, `${point.world[i].toFixed(3)} m`));
  if (point.fromSensor) add("range", `${Math.hypot(...point.xyz).toFixed(3)} m`);
  if (point.intensity !== null) add("intensity", point.intensity.toFixed(2));
  if (point.label !== null) add("class", nameOf(point.label));
  if (point.prediction !== null) add("prediction", nameOf(point.prediction));
  if (point.confidence !== null && point.prediction !== NONE) add("confidence", percent(point.confidence, 1));
  if (point.instance !== null) add("instance", point.instance ? String(point.instance) : "none");
  for (const [name, value] of extra) add(name, value);
  card.replaceChildren(button, element("h2", `Point ${point.row.toLocaleString("en")}`), values);
}

function showFacts(facts) {
  const step = Math.max(...facts.step) * 1000;
  const pairs = [
    ["file", facts.name || "-"],
    ["points", facts.points.toLocaleString("en")],
    ["coordinates", `in steps of ${step < 100 ? step.toPrecision(2) : step.toFixed(0)} mm`],
  ];
  if (facts.leftOut) pairs.push(["left out", `${facts.leftOut.toLocaleString("en")} not finite`]);
  if (facts.origin.some((v) => v)) pairs.push(["origin", `${facts.origin.join(", ")} m`]);
  byId("facts").replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function saveCanvas(canvas, title) {
  canvas.toBlob((blob) => {
    const link = element("a", undefined, { href: URL.createObjectURL(blob), download: `${title.replace(/[^\w.-]+/g, "_")}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}
