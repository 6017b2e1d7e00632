// WebGL2: points and lines into a texture with depth, then one pass that shades edges onto the canvas

const MODES = ["labels", "prediction", "error", "confidence", "intensity", "height", "instance"];
const PICK_SIDE = 17;

const POINT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
layout(location = 0) in uvec4 cell;
layout(location = 1) in uvec4 bytes;
uniform mat4 toClip;
uniform vec3 low, step_;
uniform vec2 heights, brightness;
uniform float sizeAtOne, largest;
uniform int mode, byPrediction;
uniform uint firstId;
uniform sampler2D table;
flat out vec4 shade;

vec4 ramp(float share) {
  return texelFetch(table, ivec2(int(clamp(share, 0.0, 1.0) * 255.0 + 0.5), 1), 0);
}

vec4 entry(uint number, int row) {
  return texelFetch(table, ivec2(int(number), row), 0);
}

vec4 hashed(uint number) {
  if (number == 0u) return entry(255u, 0);
  float hue = fract(float(number) * 0.61803398875) * 6.0;
  return vec4(0.35 + 0.6 * clamp(abs(mod(hue + vec3(0.0, 4.0, 2.0), 6.0) - 3.0) - 1.0, 0.0, 1.0), 1.0);
}

void main() {
  vec3 xyz = low + step_ * vec3(cell.xyz);
  gl_Position = toClip * vec4(xyz, 1.0);
  gl_PointSize = clamp(sizeAtOne / gl_Position.w, 1.0, largest);
  uint verdict = bytes.x == 255u ? 2u : bytes.x == bytes.y ? 0u : 1u;
  float shown = entry(byPrediction == 1 ? bytes.y : bytes.x, 0).a;
  if (mode == 0) shade = entry(bytes.x, 0);
  else if (mode == 1) shade = entry(bytes.y, 0);
  else if (mode == 2) { shade = entry(verdict, 2); shown = min(shown, shade.a); }
  else if (mode == 3) shade = bytes.y == 255u ? entry(255u, 0) : ramp(1.0 - float(bytes.z) / 255.0);
  else if (mode == 4) shade = ramp((float(bytes.w) / 255.0 - brightness.x) / max(brightness.y - brightness.x, 1e-6));
  else if (mode == 5) shade = ramp((xyz.z - heights.x) / max(heights.y - heights.x, 1e-6));
  else shade = hashed(cell.w);
#ifdef PICK
  uint id = firstId + uint(gl_VertexID) + 1u;
  shade = vec4(uvec4(id, id >> 8, id >> 16, id >> 24) & 255u) / 255.0;
  gl_PointSize = max(gl_PointSize, 3.0);
#endif
  if (shown < 0.5) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}`;

const POINT_FRAGMENT = `#version 300 es
precision mediump float;
flat in vec4 shade;
out vec4 color;
void main() {
  vec2 d = gl_PointCoord - 0.5;
  if (dot(d, d) > 0.27) discard;
  color = vec4(shade.rgb, shade.a);
}`;

const LINE_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec3 a;
layout(location = 1) in vec3 b;
layout(location = 2) in vec4 tint;
uniform mat4 toClip;
uniform vec2 viewport;
uniform float thickness, nearest;
flat out vec4 shade;
void main() {
  vec4 p = toClip * vec4(a, 1.0), q = toClip * vec4(b, 1.0);
  // the part behind the camera is cut off
  if (p.w < nearest && q.w < nearest) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (p.w < nearest) p = mix(p, q, (nearest - p.w) / (q.w - p.w));
  if (q.w < nearest) q = mix(q, p, (nearest - q.w) / (p.w - q.w));
  vec2 along = (q.xy / q.w - p.xy / p.w) * viewport;
  vec2 across = length(along) > 0.0 ? normalize(vec2(-along.y, along.x)) : vec2(0.0, 1.0);
  gl_Position = (gl_VertexID & 1) == 0 ? p : q;
  gl_Position.xy += across * thickness * ((gl_VertexID & 2) == 0 ? 1.0 : -1.0) / viewport * gl_Position.w;
  shade = tint;
}`;

const LINE_FRAGMENT = `#version 300 es
precision mediump float;
flat in vec4 shade;
out vec4 color;
void main() { color = shade; }`;

const SHEET_VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

// eye-dome lighting as in splat.py: darker where a neighbour is nearer
const SHEET_FRAGMENT = `#version 300 es
precision highp float;
uniform highp sampler2D colors, depths;
uniform vec3 ground;
uniform float near, far, perOctave, perMetre;
uniform int radius, flat_, shaded;
out vec4 color;

float relief(ivec2 at, ivec2 size) {
  float d = texelFetch(depths, clamp(at, ivec2(0), size - 1), 0).r;
  if (d >= 1.0) return 1e9;
  if (flat_ == 1) return (near + d * (far - near)) * perMetre;
  return perOctave * log2(near * far / (far - d * (far - near)));
}

void main() {
  ivec2 at = ivec2(gl_FragCoord.xy), size = textureSize(depths, 0);
  float here = relief(at, size);
  if (here > 1e8) { color = vec4(ground, 1.0); return; }
  vec3 rgb = texelFetch(colors, at, 0).rgb;
  if (shaded == 0) { color = vec4(rgb, 1.0); return; }
  float total = 0.0;
  for (int ring = 1; ring <= 3; ring += 2) {
    for (int y = -1; y <= 1; y++) {
      for (int x = -1; x <= 1; x++) total += clamp(here - relief(at + ivec2(x, y) * ring * radius, size), 0.0, 1.0);
    }
  }
  color = vec4(rgb * max(exp(-5.0 * total / 16.0), 0.25), 1.0);
}`;

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
