// classes and verdicts: the colours that the device looks up, and the rows of the lists

const VERDICTS = [
  { name: "right", dark: [92, 104, 122], light: [168, 178, 192] },
  { name: "wrong", dark: [255, 74, 64], light: [214, 26, 26] },
  { name: "no label", dark: [66, 70, 78], light: [208, 210, 214] },
];

// 3 rows of 256 RGBA: classes (the last: none), colour bar, verdicts; alpha 0 hides
function tableOf({ classes, ramp, theme, shown, verdicts }) {
  const table = new Uint8Array(3 * 256 * 4);
  const put = (row, i, rgb, visible) => table.set([...rgb, visible ? 255 : 0], 4 * (256 * row + i));
  const place = (i) => (i < classes.length - 1 ? i : NONE);
  classes.forEach((entry, i) => put(0, place(i), entry[theme], shown[place(i)]));
  table.set(ramp, 4 * 256);
  VERDICTS.forEach((entry, i) => put(2, i, entry[theme], verdicts[i]));
  return table;
}

function summed(sweeps, key) {
  return sweeps.map((sweep) => Array.from(sweep.counts[key])).reduce((a, b) => a.map((v, i) => v + b[i]), new Array(256).fill(0));
}

// the commonest first; in an error map with the share of each class that is wrong
function classRows(sweeps, field, inError, classes, shown, theme) {
  const [counts, wrong] = [summed(sweeps, field), summed(sweeps, "wrong")];
  const present = [...counts.keys()].filter((i) => counts[i]);
  return present.sort((a, b) => counts[b] - counts[a] || a - b).map((i) => {
    const entry = i === NONE ? classes.at(-1) : classes[i];
    const note = inError && i !== NONE ? `${percent(wrong[i], counts[i])} wrong` : undefined;
    return { key: i, name: entry.name, color: entry[theme], n: counts[i], note, shown: shown[i] };
  });
}

function verdictRows(sweeps, shown, theme) {
  const counts = summed(sweeps, "verdicts");
  return VERDICTS.map((entry, i) => ({ key: i, name: entry.name, color: entry[theme], n: counts[i], shown: shown[i] })).filter((row) => row.n);
}
