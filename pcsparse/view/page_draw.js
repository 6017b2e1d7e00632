// WebGL2: points and lines into a texture with depth, then one pass that shades edges onto the canvas

const MODES = ["labels", "prediction", "error", "confidence", "intensity", "height", "instance"];
const PICK_SIDE = 17;

function createRenderer(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false, depth: false, powerPreference: "high-performance" });
  if (!gl) throw new Error("This browser has no WebGL2, which draws the points: switch on hardware or software rendering, or use another browser.");
  const programs = {
    points: link(gl, POINT_VERTEX, POINT_FRAGMENT),
    picks: link(gl, POINT_VERTEX.replace("#version 300 es", "#version 300 es\n#define PICK"), POINT_FRAGMENT),
    lines: link(gl, LINE_VERTEX, LINE_FRAGMENT),
    sheet: link(gl, SHEET_VERTEX, SHEET_FRAGMENT),
  };
  const table = gl.createTexture();
  const scene = createTarget(gl);
  const picks = createTarget(gl);
  picks.resize(PICK_SIDE, PICK_SIDE);
  const lines = new Map();
  const empty = gl.createVertexArray();
  const largest = gl.getParameter(gl.ALIASED_POINT_SIZE_RANGE)[1];

  // 3 rows of 256: classes (last: none), colour bar, verdicts; alpha 0 hides
  function setTable(pixels) {
    gl.bindTexture(gl.TEXTURE_2D, table);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 3, 0, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    nearest(gl);
  }

  function upload(sweep) {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    for (const [place, data, type] of [[0, sweep.cells, gl.UNSIGNED_SHORT], [1, sweep.bytes, gl.UNSIGNED_BYTE]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribIPointer(place, 4, type, 0, 0);
    }
    gl.bindVertexArray(null);
    sweep.array = array;
  }

  // segments: x, y, z of both ends, then r, g, b, a (0-1), ten numbers each
  function setLines(name, segments) {
    let entry = lines.get(name);
    if (!entry) {
      entry = { array: gl.createVertexArray(), buffer: gl.createBuffer(), n: 0 };
      lines.set(name, entry);
      gl.bindVertexArray(entry.array);
      gl.bindBuffer(gl.ARRAY_BUFFER, entry.buffer);
      for (const [place, size, offset] of [[0, 3, 0], [1, 3, 12], [2, 4, 24]]) {
        gl.enableVertexAttribArray(place);
        gl.vertexAttribPointer(place, size, gl.FLOAT, false, 40, offset);
        gl.vertexAttribDivisor(place, 1);
      }
      gl.bindVertexArray(null);
    }
    gl.bindBuffer(gl.ARRAY_BUFFER, entry.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(segments), gl.DYNAMIC_DRAW);
    entry.n = segments.length / 10;
  }

  // view: camera, sweeps with `matrix` (frame to world), mode, byPrediction, size, heights, intensity, ratio
  function drawPoints(program, view, toClip, first = 0) {
    const u = program.at;
    gl.useProgram(program.handle);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, table);
    gl.uniform1i(u.table, 0);
    gl.uniform1i(u.mode, MODES.indexOf(view.mode));
    gl.uniform1i(u.byPrediction, view.byPrediction ? 1 : 0);
    gl.uniform2fv(u.heights, view.heights);
    gl.uniform1f(u.sizeAtOne, view.camera.flat ? view.size * 2 * view.ratio : view.size * view.metres * view.focal);
    gl.uniform1f(u.largest, Math.min(largest, 8 * view.ratio * Math.max(1, view.size)));
    for (const sweep of view.sweeps) {
      const { low, step, intensityScale } = sweep.facts;
      gl.uniformMatrix4fv(u.toClip, false, times(toClip, sweep.matrix));
      gl.uniform3fv(u.low, low);
      gl.uniform3fv(u.step_, step);
      gl.uniform2f(u.brightness, view.intensity[0] / intensityScale, view.intensity[1] / intensityScale);
      gl.uniform1ui(u.firstId, first);
      gl.bindVertexArray(sweep.array);
      gl.drawArrays(gl.POINTS, 0, sweep.n);
      first += sweep.n;
    }
  }

  function drawLines(view, toClip, names, nearestDepth) {
    const u = programs.lines.at;
    gl.useProgram(programs.lines.handle);
    gl.uniformMatrix4fv(u.toClip, false, toClip);
    gl.uniform2f(u.viewport, canvas.width, canvas.height);
    gl.uniform1f(u.nearest, nearestDepth);
    for (const name of names) {
      const entry = lines.get(name);
      if (!entry || !entry.n) continue;
      gl.uniform1f(u.thickness, (name === "boxes" ? 1.8 : 1) * view.ratio);
      gl.bindVertexArray(entry.array);
      gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, entry.n);
    }
  }

  function draw(view) {
    const { camera } = view;
    scene.resize(canvas.width, canvas.height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, scene.handle);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const toClip = camera.toClip();
    drawPoints(programs.points, view, toClip);
    drawLines(view, toClip, view.lines, camera.flat ? 0 : camera.near());
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.DEPTH_TEST);
    const u = programs.sheet.at;
    gl.useProgram(programs.sheet.handle);
    for (const [unit, name, texture] of [[1, "colors", scene.color], [2, "depths", scene.depth]]) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(u[name], unit);
    }
    gl.uniform3fv(u.ground, view.ground);
    gl.uniform1f(u.near, camera.flat ? -60 * view.reach : camera.near());
    gl.uniform1f(u.far, camera.far());
    gl.uniform1f(u.perOctave, 6);
    gl.uniform1f(u.perMetre, 1 / (0.08 * view.reach));
    gl.uniform1i(u.radius, Math.max(1, Math.round(view.ratio)));
    gl.uniform1i(u.flat_, camera.flat ? 1 : 0);
    gl.uniform1i(u.shaded, view.shaded ? 1 : 0);
    gl.bindVertexArray(empty);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // the point nearest to a pixel of the canvas (from its top left) as [sweep, row of it], or null
  function pick(view, x, y) {
    const window = times(
      [canvas.width / PICK_SIDE, 0, 0, 0, 0, canvas.height / PICK_SIDE, 0, 0, 0, 0, 1, 0,
        (canvas.width - 2 * x) / PICK_SIDE, (2 * y - canvas.height) / PICK_SIDE, 0, 1],
      view.camera.toClip(),
    );
    gl.bindFramebuffer(gl.FRAMEBUFFER, picks.handle);
    gl.viewport(0, 0, PICK_SIDE, PICK_SIDE);
    gl.enable(gl.DEPTH_TEST);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    drawPoints(programs.picks, view, window);
    const bytes = new Uint8Array(4 * PICK_SIDE * PICK_SIDE);
    gl.readPixels(0, 0, PICK_SIDE, PICK_SIDE, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    let best = null;
    const middle = (PICK_SIDE - 1) / 2;
    for (let i = 0; i < PICK_SIDE * PICK_SIDE; i++) {
      const id = bytes[4 * i] + bytes[4 * i + 1] * 256 + bytes[4 * i + 2] * 65536 + bytes[4 * i + 3] * 16777216;
      const away = Math.hypot((i % PICK_SIDE) - middle, Math.floor(i / PICK_SIDE) - middle);
      if (id && away <= PICK_SIDE / 2 && (!best || away < best.away)) best = { id: id - 1, away };
    }
    if (!best) return null;
    let first = 0;
    for (const sweep of view.sweeps) {
      if (best.id < first + sweep.n) return [sweep, best.id - first];
      first += sweep.n;
    }
    return null;
  }

  // waits until what was drawn is there
  function finish() {
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }

  return { setTable, upload, setLines, draw, pick, finish };
}

function link(gl, vertex, fragment) {
  const handle = gl.createProgram();
  for (const [type, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(handle, shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) {
      throw new Error(`A shader was refused: ${gl.getShaderInfoLog(shader)}`);
    }
  }
  gl.linkProgram(handle);
  if (!gl.getProgramParameter(handle, gl.LINK_STATUS) && !gl.isContextLost()) {
    throw new Error(`A shader was refused: ${gl.getProgramInfoLog(handle)}`);
  }
  const at = {};
  for (let i = 0; i < gl.getProgramParameter(handle, gl.ACTIVE_UNIFORMS); i++) {
    const { name } = gl.getActiveUniform(handle, i);
    at[name] = gl.getUniformLocation(handle, name);
  }
  return { handle, at };
}

function nearest(gl) {
  for (const [name, value] of [["MIN_FILTER", gl.NEAREST], ["MAG_FILTER", gl.NEAREST], ["WRAP_S", gl.CLAMP_TO_EDGE], ["WRAP_T", gl.CLAMP_TO_EDGE]]) {
    gl.texParameteri(gl.TEXTURE_2D, gl[`TEXTURE_${name}`], value);
  }
}

// a colour and a depth texture to draw into
function createTarget(gl) {
  const target = { handle: gl.createFramebuffer(), color: gl.createTexture(), depth: gl.createTexture(), width: 0, height: 0 };
  target.resize = (width, height) => {
    if (width === target.width && height === target.height) return;
    [target.width, target.height] = [width, height];
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, target.color);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    nearest(gl);
    gl.bindTexture(gl.TEXTURE_2D, target.depth);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.DEPTH_COMPONENT24, width, height, 0, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT, null);
    nearest(gl);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.handle);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.color, 0);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, target.depth, 0);
  };
  return target;
}
