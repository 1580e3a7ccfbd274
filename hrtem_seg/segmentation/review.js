// Labels over a micrograph, put right with a brush. The state that Python sees is `labels` (int32, row by row).
const COLOURS = [[31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75],
                 [227, 119, 194], [188, 189, 34], [23, 190, 207], [174, 199, 232]];
const TOOLS = { add: 'a', erase: 'e', split: 's', merge: 'm' };

// Patches of one label that touch, as a list of lists of pixels; the largest first
export function patches(labels, width, label) {
  const seen = new Set(), found = [];
  for (let start = 0; start < labels.length; start++) {
    if (labels[start] !== label || seen.has(start)) continue;
    const patch = [start];
    seen.add(start);
    for (let k = 0; k < patch.length; k++) {
      const at = patch[k], x = at % width;
      const near = [at - width, at + width];
      if (x > 0) near.push(at - 1);
      if (x < width - 1) near.push(at + 1);
      for (const next of near) {
        if (next < 0 || next >= labels.length || labels[next] !== label || seen.has(next)) continue;
        seen.add(next);
        patch.push(next);
      }
    }
    found.push(patch);
  }
  return found.sort((a, b) => b.length - a.length);
}

export class Editor {
  constructor(labels, height, width) {
    this.labels = labels;
    this.height = height;
    this.width = width;
    this.tool = 'add';
    this.size = 5;        // radius of the brush, pixels
    this.current = 0;     // label that is painted; 0 starts a new particle
    this.done = [];       // strokes that can be undone: [[pixel, before], ...]
    this.undone = [];
    this.stroke = null;
  }

  put(at, label) {
    if (this.labels[at] === label) return;
    if (!this.stroke.has(at)) this.stroke.set(at, this.labels[at]);
    this.labels[at] = label;
  }

  fresh() {
    let most = 0;
    for (const label of this.labels) if (label > most) most = label;
    return most + 1;
  }

  at(y, x) { return this.labels[y * this.width + x]; }

  begin(y, x) {
    this.stroke = new Map();
    this.last = [y, x];
    this.first = this.at(y, x);
    this.touched = new Set();
    if (this.tool === 'add') this.painting = this.first || this.current || this.fresh();
    this.dab(y, x);
  }

  move(y, x) {
    const [y0, x0] = this.last, steps = Math.max(1, Math.abs(y - y0), Math.abs(x - x0));
    for (let k = 1; k <= steps; k++) this.dab(Math.round(y0 + (y - y0) * k / steps), Math.round(x0 + (x - x0) * k / steps));
    this.last = [y, x];
  }

  dab(y, x) {
    const r = this.tool === 'split' ? 1 : this.size;
    for (let i = Math.max(0, y - r); i <= Math.min(this.height - 1, y + r); i++)
      for (let j = Math.max(0, x - r); j <= Math.min(this.width - 1, x + r); j++) {
        const at = i * this.width + j;
        if (this.tool === 'merge') { if (i === y && j === x && this.labels[at]) this.touched.add(this.labels[at]); continue; }
        if ((i - y) ** 2 + (j - x) ** 2 > r * r) continue;
        if (this.tool === 'split' && this.labels[at]) this.touched.add(this.labels[at]);
        this.put(at, this.tool === 'add' ? this.painting : 0);
      }
  }

  end() {
    if (this.tool === 'split') this.divide();
    if (this.tool === 'merge') this.join();
    const stroke = [...this.stroke].filter(([at, was]) => this.labels[at] !== was);
    this.stroke = null;
    if (!stroke.length) return false;
    this.done.push(stroke);
    this.undone = [];
    return true;
  }

  // A cut that went through: each piece but the largest becomes a particle of its own
  divide() {
    for (const label of this.touched) {
      const [, ...others] = patches(this.labels, this.width, label);
      for (const patch of others) {
        const number = this.fresh();
        for (const at of patch) this.put(at, number);
      }
    }
  }

  // All particles that the stroke went over become the first of them
  join() {
    const [first, ...others] = [...this.touched];
    for (let at = 0; at < this.labels.length; at++) if (others.includes(this.labels[at])) this.put(at, first);
  }

  swap(from, to) {
    const stroke = from.pop();
    if (!stroke) return false;
    to.push(stroke.map(([at]) => [at, this.labels[at]]));
    for (const [at, was] of stroke) this.labels[at] = was;
    return true;
  }

  undo() { return this.swap(this.done, this.undone); }
  redo() { return this.swap(this.undone, this.done); }
}

function draw(canvas, picture, editor, shown) {
  const context = canvas.getContext('2d'), { width, height, labels } = editor;
  context.drawImage(picture, 0, 0);
  if (!shown) return;
  const frame = context.getImageData(0, 0, width, height), data = frame.data;
  for (let at = 0; at < labels.length; at++) {
    const label = labels[at];
    if (!label) continue;
    const x = at % width;
    const edge = labels[at - 1] !== label || labels[at + 1] !== label || labels[at - width] !== label ||
                 labels[at + width] !== label || x === 0 || x === width - 1;
    const weight = edge ? 1 : .25, colour = COLOURS[(label - 1) % COLOURS.length];
    for (let k = 0; k < 3; k++) data[4 * at + k] = weight * colour[k] + (1 - weight) * data[4 * at + k];
  }
  context.putImageData(frame, 0, 0);
}

function render({ model, el }) {
  const [height, width] = model.get('shape');
  const bytes = model.get('labels');
  const labels = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const editor = new Editor(labels, height, width);
  const box = document.createElement('div'), bar = document.createElement('div'), canvas = document.createElement('canvas');
  const told = document.createElement('span'), picture = new Image();
  box.tabIndex = 0;
  box.style.outline = 'none';
  canvas.width = width;
  canvas.height = height;
  canvas.style.cssText = `width: min(100%, ${width * Math.max(1, Math.floor(640 / width))}px); image-rendering: pixelated; cursor: crosshair; touch-action: none`;
  let shown = true;
  const say = () => {
    const n = new Set(editor.labels.filter(label => label > 0)).size;
    told.textContent = ` ${editor.tool}, brush ${editor.size} px, ${n} particles`;
    for (const button of bar.querySelectorAll('button[data-tool]'))
      button.setAttribute('aria-pressed', button.dataset.tool === editor.tool);
    draw(canvas, picture, editor, shown);
  };
  const send = () => {
    model.set('labels', new DataView(editor.labels.slice().buffer));
    model.save_changes();
    say();
  };
  const acts = {
    undo: () => editor.undo() && send(), redo: () => editor.redo() && send(),
    smaller: () => { editor.size = Math.max(1, editor.size - 1); say(); },
    larger: () => { editor.size = Math.min(200, editor.size + 1); say(); },
    hide: () => { shown = !shown; say(); },
  };
  for (const tool of Object.keys(TOOLS)) acts[tool] = () => { editor.tool = tool; say(); };
  const keys = { ...Object.fromEntries(Object.entries(TOOLS).map(([tool, key]) => [key, tool])),
                 z: 'undo', y: 'redo', '[': 'smaller', ']': 'larger', h: 'hide' };
  for (const [key, act] of Object.entries(keys)) {
    const button = document.createElement('button');
    button.textContent = act;
    button.title = `key ${key}`;
    if (act in TOOLS) button.dataset.tool = act;
    button.onclick = () => { acts[act](); box.focus(); };
    bar.append(button);
  }
  bar.append(told);
  const place = event => {
    const frame = canvas.getBoundingClientRect();
    const y = Math.floor((event.clientY - frame.top) / frame.height * height);
    const x = Math.floor((event.clientX - frame.left) / frame.width * width);
    return [Math.min(height - 1, Math.max(0, y)), Math.min(width - 1, Math.max(0, x))];
  };
  canvas.onpointerdown = event => {
    box.focus();
    canvas.setPointerCapture(event.pointerId);
    editor.begin(...place(event));
    say();
  };
  canvas.onpointermove = event => { if (editor.stroke) { editor.move(...place(event)); say(); } };
  canvas.onpointerup = () => { if (editor.stroke) { editor.end() ? send() : say(); } };
  box.onpointerenter = () => box.focus();   // keys go to what the mouse is over
  box.onkeydown = event => {
    const act = keys[event.key.toLowerCase()];
    if (!act || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();   // the notebook has keys of its own
    acts[act]();
  };
  picture.onload = say;
  const png = model.get('picture');
  picture.src = URL.createObjectURL(new Blob([png], { type: 'image/png' }));
  box.append(bar, canvas);
  el.append(box);
}

export default { render };
