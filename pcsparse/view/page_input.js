// pointers, wheel and keys to camera moves and actions

const TURN_A_PIXEL = 0.006;
const CLICK_PIXELS = 5;
const CLICK_MS = 500;
const KEY_TURN = 0.07;
const KEY_MOVE = 40;

// actions: changed(), pick(x, y), center(x, y), key(name) -> whether it was taken
function listen(canvas, camera, actions) {
  const pointers = new Map();
  let pressed = null;

  const middle = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
  };
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, size: Math.hypot(a.x - b.x, a.y - b.y), angle: Math.atan2(b.y - a.y, b.x - a.x) };
  };

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    const [x, y] = middle(event);
    pointers.set(event.pointerId, { x, y });
    pressed = pointers.size === 1 ? { x, y, at: event.timeStamp, button: event.button } : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    const pointer = pointers.get(event.pointerId);
    if (!pointer) return;
    const [x, y] = middle(event);
    if (pointers.size === 1) {
      const [dx, dy] = [x - pointer.x, y - pointer.y];
      if (event.buttons & 6 || event.shiftKey) camera.move(dx, dy);
      else camera.turn(dx * TURN_A_PIXEL, dy * TURN_A_PIXEL);
      Object.assign(pointer, { x, y });
    } else {
      const before = spread();
      Object.assign(pointer, { x, y });
      const after = spread();
      camera.move(after.x - before.x, after.y - before.y);
      if (before.size > 0 && after.size > 0) camera.zoom(before.size / after.size, after.x, after.y);
      camera.yaw += Math.atan2(Math.sin(after.angle - before.angle), Math.cos(after.angle - before.angle));
    }
    if (pressed && Math.hypot(x - pressed.x, y - pressed.y) > CLICK_PIXELS) pressed = null;
    actions.changed();
  });
  const release = (event) => {
    pointers.delete(event.pointerId);
    const clicked = event.type === "pointerup" && pressed && pressed.button === 0 && event.timeStamp - pressed.at < CLICK_MS;
    if (clicked) actions.pick(...middle(event));
    if (!pointers.size) pressed = null;
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("dblclick", (event) => actions.center(...middle(event)));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
    camera.zoom(Math.exp(Math.max(-1, Math.min(1, pixels * 0.0015))), ...middle(event));
    actions.changed();
  }, { passive: false });

  const moves = {
    ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1],
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const control = event.target instanceof Element && event.target.closest("input, button, select, a, [role='radio']");
    if (event.key in moves && !control) {
      const [dx, dy] = moves[event.key];
      if (event.shiftKey) camera.move(dx * KEY_MOVE, dy * KEY_MOVE);
      else camera.turn(-dx * KEY_TURN, dy * KEY_TURN);
      actions.changed();
    } else if (event.key === "+" || event.key === "=" || event.key === "-") {
      camera.zoom(event.key === "-" ? 1.15 : 1 / 1.15, 0, 0);
      actions.changed();
    } else if (event.key === " " && control) {
      return;
    } else if (!actions.key(event.key)) {
      return;
    }
    event.preventDefault();
  });
}
