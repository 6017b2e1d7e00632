"use strict";
// the points: base64 of raw deflate of byte planes, one column after the other, as page_payload.py writes them

const NONE = 255;

async function inflate(text, size) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack the points (it lacks DecompressionStream): use one of 2023 or later.");
  }
  const letters = atob(text);
  const packed = new Uint8Array(letters.length);
  for (let i = 0; i < packed.length; i++) packed[i] = letters.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  if (bytes.length !== size) {
    throw new Error(`The points are damaged: ${bytes.length} bytes where ${size} were written. Save the page again.`);
  }
  return bytes;
}

// sums of zigzag-coded differences modulo 65,536, into every fourth number of `into`
function undoDifferences(bytes, start, n, into, place) {
  let value = 0;
  for (let i = 0; i < n; i++) {
    const code = bytes[start + i] | (bytes[start + n + i] << 8);
    value = (value + ((code >>> 1) ^ -(code & 1))) & 0xffff;
    into[4 * i + place] = value;
  }
}

function undoRows(bytes, start, n) {
  const rows = new Uint32Array(n);
  let row = -1;
  for (let i = 0; i < n; i++) {
    const gap = (shift) => bytes[start + shift * n + i];
    row += gap(0) + gap(1) * 256 + gap(2) * 65536 + gap(3) * 16777216;
    rows[i] = row;
  }
  return rows;
}

const BYTE_PLACES = { labels: 0, prediction: 1, confidence: 2, intensity: 3 };
const CELL_PLACES = { x: 0, y: 1, z: 2, instance: 3 };

// a sweep as it is drawn and picked: cells (x, y, z, instance) and bytes (label, prediction, confidence, intensity)
async function decodeSweep(facts, text) {
  const planes = await inflate(text, facts.bytes);
  const n = facts.points;
  const sweep = { facts, n, cells: new Uint16Array(4 * n), bytes: new Uint8Array(4 * n), rows: null, counts: null };
  for (let i = 0; i < n; i++) sweep.bytes[4 * i] = sweep.bytes[4 * i + 1] = NONE;
  let at = 0;
  for (const column of facts.columns) {
    if (column === "rows") {
      sweep.rows = undoRows(planes, at, n);
      at += 4 * n;
    } else if (column in CELL_PLACES) {
      undoDifferences(planes, at, n, sweep.cells, CELL_PLACES[column]);
      at += 2 * n;
    } else {
      const place = BYTE_PLACES[column];
      for (let i = 0; i < n; i++) sweep.bytes[4 * i + place] = planes[at + i];
      at += n;
    }
  }
  sweep.counts = countsOf(sweep);
  return sweep;
}

// points a class, by label and by prediction, and how many predictions are right, wrong, or cannot be judged
function countsOf(sweep) {
  const counts = { labels: new Uint32Array(256), prediction: new Uint32Array(256), wrong: new Uint32Array(256), verdicts: new Uint32Array(256) };
  for (let i = 0; i < sweep.n; i++) {
    const label = sweep.bytes[4 * i];
    const prediction = sweep.bytes[4 * i + 1];
    counts.labels[label]++;
    counts.prediction[prediction]++;
    const verdict = label === NONE ? 2 : label === prediction ? 0 : 1;
    counts.verdicts[verdict]++;
    if (verdict === 1) counts.wrong[label]++;
  }
  return counts;
}

// what is known of one point, in metres of its sweep
function pointOf(sweep, i) {
  const { low, step } = sweep.facts;
  const has = (column) => sweep.facts.columns.includes(column);
  const at = (place) => sweep.bytes[4 * i + place];
  return {
    row: sweep.rows ? sweep.rows[i] : i,
    xyz: [0, 1, 2].map((axis) => low[axis] + step[axis] * sweep.cells[4 * i + axis]),
    label: has("labels") ? at(0) : null,
    prediction: has("prediction") ? at(1) : null,
    confidence: has("confidence") ? at(2) / 255 : null,
    intensity: has("intensity") ? (at(3) / 255) * sweep.facts.intensityScale : null,
    instance: has("instance") ? sweep.cells[4 * i + 3] : null,
  };
}
