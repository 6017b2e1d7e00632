// programs of the graphics device: points, lines, and the sheet that shades edges

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
