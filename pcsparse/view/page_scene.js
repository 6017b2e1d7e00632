// what is drawn beside the points, and the geometry of it: rings, boxes, their names, poses

const MAX_NAMES = 200;

// 256 colours between the knots of the bar
function rampPixels(knots) {
  const pixels = new Uint8Array(256 * 4);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (knots.length - 1);
    const k = Math.min(knots.length - 2, Math.floor(place));
    const rgb = knots[k].map((v, c) => Math.round(v + (knots[k + 1][c] - v) * (place - k)));
    pixels.set([...rgb, 255], 4 * i);
  }
  return pixels;
}

function ringRadii({ ringStep, reach }) {
  return Array.from({ length: Math.floor((1.001 * reach) / ringStep) }, (_, i) => (i + 1) * ringStep);
}

function ringSegments(content, tint) {
  const [cx, cy, cz] = content.center;
  const at = (r, k) => [cx + r * Math.cos((k * Math.PI) / 48), cy + r * Math.sin((k * Math.PI) / 48), cz];
  return ringRadii(content).flatMap((r) => Array.from({ length: 96 }, (_, k) => [...at(r, k), ...at(r, k + 1), ...tint]).flat());
}

// marks: [x, y, z], text and kind
function ringMarks(content, yaw) {
  const [cx, cy, cz] = content.center;
  return ringRadii(content).map((r) => [[cx + r * Math.cos(yaw), cy + r * Math.sin(yaw), cz], `${Number(r.toPrecision(3))} m`, "ring"]);
}

function boxMark({ center, size, name, score }) {
  return [[center[0], center[1], center[2] + size[2] / 2], score === null ? name : `${name} ${score.toFixed(2)}`, "box"];
}

// put marks over the canvas, as many as lie in view; of names of boxes that would overlap the nearest
function placeMarks(camera, marks) {
  const matrix = camera.toClip();
  const eye = camera.eye();
  const away = ([at]) => Math.hypot(...at.map((v, i) => v - eye[i]));
  const [made, taken] = [[], new Set()];
  for (const [at, text, kind] of [...marks].sort((a, b) => away(a) - away(b))) {
    const p = project(matrix, at, camera.width, camera.height);
    if (!p.seen || p.x < 0 || p.y < 0 || p.x > camera.width || p.y > camera.height) continue;
    const cell = `${Math.round(p.x / 70)} ${Math.round(p.y / 14)}`;
    if (kind === "box" && taken.has(cell)) continue;
    if (kind === "box") taken.add(cell);
    const mark = element("span", text, { class: kind });
    mark.style.transform = `translate(${p.x.toFixed(1)}px, ${p.y.toFixed(1)}px)${kind === "box" ? " translate(-50%, -100%)" : ""}`;
    made.push(mark);
  }
  byId("marks").replaceChildren(...made);
}

// twelve edges, and a line on the ground to where it heads
function boxSegments({ center, size, yaw }, tint) {
  const [c, s] = [Math.cos(yaw), Math.sin(yaw)];
  const at = (u, v, w) => {
    const [x, y, z] = [(u * size[0]) / 2, (v * size[1]) / 2, (w * size[2]) / 2];
    return [center[0] + c * x - s * y, center[1] + s * x + c * y, center[2] + z];
  };
  const ends = [[[0, 0, -1], [1.4, 0, -1]]];
  for (const u of [-1, 1]) {
    for (const v of [-1, 1]) ends.push([[u, v, -1], [u, v, 1]], [[u, -1, v], [u, 1, v]], [[-1, u, v], [1, u, v]]);
  }
  return ends.flatMap(([a, b]) => [...at(...a), ...at(...b), ...tint]);
}

function holds({ center, size, yaw }, xyz) {
  const [x, y, z] = xyz.map((v, i) => v - center[i]);
  const [along, across] = [Math.cos(yaw) * x + Math.sin(yaw) * y, Math.cos(yaw) * y - Math.sin(yaw) * x];
  return Math.abs(along) <= size[0] / 2 && Math.abs(across) <= size[1] / 2 && Math.abs(z) <= size[2] / 2;
}

function transformed(matrix, [x, y, z]) {
  return [0, 1, 2].map((row) => matrix[row] * x + matrix[4 + row] * y + matrix[8 + row] * z + matrix[12 + row]);
}

// of a rigid pose, column by column
function inverse(m) {
  const turn = [m[0], m[4], m[8], 0, m[1], m[5], m[9], 0, m[2], m[6], m[10], 0, 0, 0, 0, 1];
  const back = transformed(turn, [-m[12], -m[13], -m[14]]);
  return [...turn.slice(0, 12), ...back, 1];
}
