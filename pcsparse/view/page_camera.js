// the camera: it turns about a target; x forward, y left, z up, metres

const HALF_ANGLE = (35 * Math.PI) / 180;
const STEEPEST = Math.PI / 2;

function createCamera(center, reach) {
  const camera = { width: 1, height: 1 };
  camera.reset = () => {
    // behind and above the sensor, looking forward, as the PNG does; steeper where the view is tall
    const tall = camera.height > camera.width;
    camera.target = [center[0] + (tall ? 0.25 : 0.33) * reach, center[1], center[2]];
    camera.yaw = 0;
    camera.pitch = tall ? 0.75 : Math.atan2(0.27, 0.67);
    camera.distance = (tall ? 1.05 : 0.72) * reach;
    camera.flat = false;
  };
  camera.top = () => {
    camera.target = [...center];
    camera.yaw = 0;
    camera.pitch = STEEPEST;
    camera.distance = 1.05 * reach * (camera.focal(camera.width, camera.height) / (0.5 * Math.min(camera.width, camera.height)));
    camera.flat = true;
  };
  camera.focal = (width, height) => (0.5 * Math.max(width, 0.75 * height)) / Math.tan(HALF_ANGLE);
  // metres a pixel at the target
  camera.scale = () => camera.distance / camera.focal(camera.width, camera.height);
  camera.axes = () => {
    const [cy, sy, cp, sp] = [Math.cos(camera.yaw), Math.sin(camera.yaw), Math.cos(camera.pitch), Math.sin(camera.pitch)];
    return { forward: [cp * cy, cp * sy, -sp], right: [sy, -cy, 0], up: [cy * sp, sy * sp, cp] };
  };
  camera.eye = () => {
    const { forward } = camera.axes();
    return camera.target.map((v, i) => v - forward[i] * camera.distance);
  };
  camera.turn = (dx, dy) => {
    camera.yaw -= dx;
    camera.pitch = Math.min(STEEPEST, Math.max(-STEEPEST, camera.pitch + dy));
    if (dy) camera.flat = false;
  };
  // by pixels, so that what lies at the target's depth stays under the pointer
  camera.move = (dx, dy) => {
    const { right, up } = camera.axes();
    const scale = camera.scale();
    camera.target = camera.target.map((v, i) => v + scale * (dy * up[i] - dx * right[i]));
  };
  // about a pixel, counted from the middle of the view
  camera.zoom = (factor, x, y) => {
    const before = camera.distance;
    camera.distance = Math.min(40 * reach, Math.max(0.004 * reach, before * factor));
    const share = 1 - camera.distance / before;
    camera.move(-x * share * (before / camera.distance), -y * share * (before / camera.distance));
  };
  camera.near = () => 0.2 * camera.distance;
  camera.far = () => camera.distance + 60 * reach;
  // world to clip space, column by column
  camera.toClip = () => {
    const { forward, right, up } = camera.axes();
    const eye = camera.eye();
    const [near, far] = camera.flat ? [-60 * reach, camera.far()] : [camera.near(), camera.far()];
    const focal = camera.focal(camera.width, camera.height);
    const sx = (2 * focal) / camera.width;
    const sy = (2 * focal) / camera.height;
    const row = (axis, scale) => [...axis.map((v) => v * scale), -scale * dot(axis, eye)];
    const depth = row(forward, 1);
    let rows;
    if (camera.flat) {
      const z = 2 / (far - near);
      rows = [row(right, sx / camera.distance), row(up, sy / camera.distance),
        depth.map((v, i) => v * z - (i === 3 ? (far + near) / (far - near) : 0)), [0, 0, 0, 1]];
    } else {
      const z = (far + near) / (far - near);
      rows = [row(right, sx), row(up, sy), depth.map((v, i) => v * z - (i === 3 ? (2 * far * near) / (far - near) : 0)), depth];
    }
    return [0, 1, 2, 3].flatMap((column) => rows.map((r) => r[column]));
  };
  camera.reset();
  return camera;
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// a pixel of the view, from its top left, and whether it lies before the camera
function project(matrix, [x, y, z], width, height) {
  const at = (row) => matrix[row] * x + matrix[4 + row] * y + matrix[8 + row] * z + matrix[12 + row];
  const w = at(3);
  return { x: (0.5 + (0.5 * at(0)) / w) * width, y: (0.5 - (0.5 * at(1)) / w) * height, seen: w > 0 && Math.abs(at(2)) < w };
}

// the product of two matrices given column by column
function times(a, b) {
  const out = new Array(16).fill(0);
  for (let c = 0; c < 4; c++) {
    for (let r = 0; r < 4; r++) {
      for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
    }
  }
  return out;
}

const IDENTITY = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];

// pose rows as Python writes them, to columns
function columnsOf(pose) {
  return pose ? [0, 1, 2, 3].flatMap((column) => pose.map((row) => row[column])) : IDENTITY;
}
