// puts the parts together: state, what is drawn when, and the controls

(async () => {
  const content = JSON.parse(byId("content").textContent);
  const canvas = byId("view");
  const classes = content.classes;
  const state = {
    sweep: 0, all: false, mode: null, shown: new Array(256).fill(true), verdicts: [true, true, true],
    picked: null, playing: null, drawn: false,
  };
  const decoded = new Map();
  const columns = content.sweeps.map((s) => s.columns).reduce((a, b) => [...new Set([...a, ...b])]);
  const modes = modesOf(columns);
  const theme = () => document.documentElement.dataset.theme;
  const ramp = rampPixels(content.ramp);
  const camera = createCamera(content.center, content.reach);
  const renderer = createRenderer(canvas);
  let queued = false;

  // ---- sweeps

  async function sweepAt(i) {
    if (!decoded.has(i)) {
      const holder = byId(`points-${i}`);
      decoded.set(i, decodeSweep(content.sweeps[i], holder.textContent).then((sweep) => {
        renderer.upload(sweep);
        holder.remove();
        sweep.index = i;
        return sweep;
      }));
    }
    return decoded.get(i);
  }

  let shownSweeps = [];
  let calls = 0;
  async function showSweep(i) {
    state.sweep = i;
    calls += 1;
    const call = calls;
    const wanted = state.all ? content.sweeps.map((_, k) => k) : [i];
    const sweeps = await Promise.all(wanted.map(sweepAt));
    // a later choice was faster
    if (call !== calls) return;
    shownSweeps = sweeps;
    // alone, a sweep is shown in its own frame; together, in that of the chosen one
    const back = state.all ? inverse(columnsOf(content.sweeps[i].pose)) : null;
    for (const sweep of sweeps) sweep.matrix = back ? times(back, columnsOf(sweep.facts.pose)) : IDENTITY;
    pick(null);
    showSequence();
    showLegend();
    showLines();
    changed();
  }

  // ---- drawing

  function changed() {
    if (queued) return;
    queued = true;
    requestAnimationFrame(() => {
      queued = false;
      draw();
    });
  }

  function view() {
    const ratio = canvas.width / Math.max(1, canvas.clientWidth);
    return {
      camera, sweeps: shownSweeps, mode: state.mode, byPrediction: legendField() === "prediction",
      size: Number(byId("size").value), metres: content.reach / 380, focal: camera.focal(camera.width, camera.height) * ratio,
      ratio, reach: content.reach, heights: content.height, intensity: content.intensity, shaded: byId("shade").checked,
      lines: ["rings", "boxes"].filter((name) => byId(name).checked), ground: panelColor(),
    };
  }

  function draw() {
    if (!shownSweeps.length) return;
    resize();
    renderer.draw(view());
    showMarks();
    byId("top").setAttribute("aria-pressed", String(camera.flat));
    if (!state.drawn) {
      state.drawn = true;
      renderer.finish();
      document.documentElement.dataset.firstFrame = Math.round(performance.now());
    }
  }

  function resize() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    camera.width = Math.max(1, width);
    camera.height = Math.max(1, height);
    const [w, h] = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  }

  function panelColor() {
    return theme() === "dark" ? [20 / 255, 23 / 255, 29 / 255] : [246 / 255, 247 / 255, 249 / 255];
  }

  // range rings and boxes
  function showLines() {
    renderer.setLines("rings", ringSegments(content, theme() === "dark" ? [0.3, 0.33, 0.38, 1] : [0.72, 0.75, 0.79, 1]));
    renderer.setLines("boxes", boxesShown().flatMap(([box, color]) => boxSegments(box, [...color.map((v) => v / 255), 1])));
  }

  function boxesShown() {
    const chosen = shownSweeps.find((sweep) => sweep.index === state.sweep);
    const plain = theme() === "dark" ? [255, 196, 84] : [168, 92, 0];
    return (chosen ? chosen.facts.boxes : []).map((box) => {
      const known = classes.find((entry) => entry.name.toLowerCase() === box.name.toLowerCase());
      return [box, known ? known[theme()] : plain];
    });
  }

  // names of boxes and rings, and the picked point, over the canvas
  function showMarks() {
    const marks = [];
    if (byId("rings").checked) marks.push(...ringMarks(content, camera.yaw));
    if (byId("boxes").checked) marks.push(...boxesShown().slice(0, MAX_NAMES).map(([box]) => boxMark(box)));
    if (state.picked) marks.push([transformed(state.picked.sweep.matrix, state.picked.point.xyz), "", "point"]);
    placeMarks(camera, marks);
  }

  // ---- colours and classes

  // by which numbers points are switched on and off: what is coloured by, else what there is
  function legendField() {
    const has = (column) => columns.includes(column);
    if (state.mode === "labels" || state.mode === "error") return "labels";
    if (state.mode === "prediction" || state.mode === "confidence") return has("prediction") ? "prediction" : null;
    return has("prediction") ? "prediction" : has("labels") ? "labels" : null;
  }

  function setMode(mode) {
    state.mode = mode;
    showMode(mode);
    const ranges = { confidence: [[1, 0], "confidence"], intensity: [content.intensity, "intensity"], height: [content.height, "height (m)"] };
    showBar(ramp, ...(ranges[mode] ?? [null, ""]));
    showLegend();
  }

  function setColours() {
    renderer.setTable(tableOf({ classes, ramp, theme: theme(), shown: state.shown, verdicts: state.verdicts }));
    changed();
  }

  function showLegend() {
    setColours();
    const field = legendField();
    byId("legend").hidden = !field;
    if (!field) return;
    const inError = state.mode === "error";
    const whole = shownSweeps.reduce((sum, sweep) => sum + sweep.n, 0);
    byId("legendName").textContent = field === "labels" ? "Classes (labels)" : "Classes (prediction)";
    const toggle = (which) => (i, shown) => {
      which[i] = shown;
      setColours();
    };
    fillList(byId("classes"), classRows(shownSweeps, field, inError, classes, state.shown, theme()), whole, toggle(state.shown));
    fillList(byId("verdicts"), inError ? verdictRows(shownSweeps, state.verdicts, theme()) : [], whole, toggle(state.verdicts));
  }

  function setShown(shown) {
    state.shown.fill(shown);
    showLegend();
  }

  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    byId("theme").textContent = name === "dark" ? "Light" : "Dark";
    showLegend();
    showLines();
  }

  // ---- picking

  function found(x, y) {
    const ratio = canvas.width / canvas.clientWidth;
    return renderer.pick(view(), (x + camera.width / 2) * ratio, (y + camera.height / 2) * ratio);
  }

  function pick(hit) {
    state.picked = hit && { sweep: hit[0], point: pointOf(...hit) };
    const close = () => {
      pick(null);
      canvas.focus();
    };
    if (!hit) showPicked(null);
    else {
      const { sweep, point } = state.picked;
      const inside = sweep.facts.boxes.filter((box) => holds(box, point.xyz)).map((box) => box.name || "unnamed");
      const extra = [];
      if (inside.length) extra.push(["box", inside.join(", ")]);
      if (content.sweeps.length > 1) extra.push(["sweep", sweep.facts.name]);
      const { origin } = sweep.facts;
      // world coordinates do not begin at a sensor
      const fromSensor = !origin.some((v) => v);
      showPicked({ ...point, fromSensor, world: point.xyz.map((v, i) => v + origin[i]) }, classes, extra, close);
    }
    changed();
  }

  function center(x, y) {
    const hit = found(x, y);
    if (!hit) return;
    camera.target = transformed(hit[0].matrix, pointOf(...hit).xyz);
    changed();
  }

  // ---- sequence

  function showSequence() {
    const n = content.sweeps.length;
    const facts = content.sweeps[state.sweep];
    const points = shownSweeps.reduce((sum, sweep) => sum + sweep.n, 0);
    byId("title").textContent = content.title;
    const where = n > 1 ? `${state.sweep + 1} of ${n}: ${facts.name} · ` : "";
    byId("subtitle").textContent = `${where}${points.toLocaleString("en")} points`;
    byId("sequence").hidden = n < 2;
    byId("sweep").max = n - 1;
    byId("sweep").value = state.sweep;
    byId("sweepName").textContent = `${state.sweep + 1} / ${n}`;
    byId("allRow").hidden = n < 2 || content.sweeps.some((s) => !s.pose);
    byId("boxesRow").hidden = !content.sweeps.some((s) => s.boxes.length);
    byId("boxesName").textContent = `${facts.boxes.length} ${facts.boxes.length === 1 ? "box" : "boxes"}`;
    showFacts(facts);
  }

  function setPlaying(playing) {
    clearInterval(state.playing);
    state.playing = playing ? setInterval(() => stepSweep(1), 250) : null;
    byId("play").setAttribute("aria-pressed", String(Boolean(playing)));
    byId("play").textContent = playing ? "Pause" : "Play";
  }

  function stepSweep(by) {
    const n = content.sweeps.length;
    if (n > 1) guarded(() => showSweep((state.sweep + by + n) % n));
  }

  // ---- controls

  function fold(folded) {
    document.body.classList.toggle("folded", folded);
    byId("fold").setAttribute("aria-expanded", String(!folded));
  }

  function shoot() {
    // the picture is gone once the browser has shown it
    draw();
    saveCanvas(canvas, content.title);
  }

  const keys = {
    r: () => byId("reset").click(), t: () => byId("top").click(), d: () => byId("theme").click(), s: shoot,
    h: () => byId("fold").click(), "[": () => stepSweep(-1), "]": () => stepSweep(1),
    " ": () => content.sweeps.length > 1 && byId("play").click(), escape: () => pick(null),
  };
  listen(canvas, camera, {
    changed,
    pick: (x, y) => pick(found(x, y)),
    center,
    key: (name) => {
      const number = Number(name);
      if (number >= 1 && number <= modes.length) setMode(modes[number - 1]);
      else if (keys[name.toLowerCase()]) keys[name.toLowerCase()]();
      else return false;
      return true;
    },
  });
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("reset", "click", () => { camera.reset(); changed(); });
  on("top", "click", () => { camera.top(); changed(); });
  on("theme", "click", () => setTheme(theme() === "dark" ? "light" : "dark"));
  on("shot", "click", shoot);
  on("fold", "click", () => fold(!document.body.classList.contains("folded")));
  on("play", "click", () => setPlaying(!state.playing));
  on("sweep", "input", () => guarded(() => showSweep(Number(byId("sweep").value))));
  on("all", "change", () => { state.all = byId("all").checked; guarded(() => showSweep(state.sweep)); });
  on("allOn", "click", () => setShown(true));
  on("allOff", "click", () => setShown(false));
  for (const id of ["size", "shade", "rings", "boxes"]) on(id, "input", changed);
  canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => location.reload());
  new ResizeObserver(changed).observe(canvas);

  fold(window.matchMedia("(max-width: 720px)").matches);
  fillModes(modes, setMode);
  const first = ["prediction", "labels", "intensity", "height"].find((mode) => modes.includes(mode));
  setMode(first);
  setTheme(content.theme);
  resize();
  camera.reset();
  await showSweep(0);
})().catch(failed);

function guarded(act) {
  act().catch(failed);
}

function failed(error) {
  byId("failure").hidden = false;
  byId("failure").textContent = error.message;
}
