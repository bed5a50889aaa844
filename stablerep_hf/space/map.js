// Draws props.value = {points: [[x, y, collection, row, caption, group]], groups, note, several, atlas, side, columns}.
// Texts of data are set by textContent alone.
const colours = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#d55e00', '#56b4e9', '#8c6bb1', '#a6a100'];
const margin = 14;
let near = -1;

const part = (selector) => element.querySelector(selector);
const points = () => (props.value && props.value.points) || [];

function place(point) {
  const box = part('canvas').getBoundingClientRect();
  return [margin + point[0] * (box.width - 2 * margin), margin + (1 - point[1]) * (box.height - 2 * margin)];
}

function draw() {
  const canvas = part('canvas');
  if (!canvas) return;
  const box = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  canvas.width = box.width * density;
  canvas.height = box.height * density;
  const pen = canvas.getContext('2d');
  pen.scale(density, density);
  pen.clearRect(0, 0, box.width, box.height);
  const size = points().length > 800 ? 3 : 4;
  points().forEach((point, number) => {
    const [x, y] = place(point);
    const big = number === near ? 3 : 0;
    pen.globalAlpha = number === near ? 1 : 0.75;
    pen.fillStyle = colours[point[5] % colours.length];
    pen.beginPath();
    if (point[2] === 'synthetic') {  // a diamond, for who cannot tell the colours apart
      const reach = size + 1.5 + big;
      pen.moveTo(x, y - reach); pen.lineTo(x + reach, y); pen.lineTo(x, y + reach); pen.lineTo(x - reach, y);
      pen.closePath();
    } else {
      pen.arc(x, y, size + big, 0, 7);
    }
    pen.fill();
    if (number === near) {
      pen.lineWidth = 2;
      pen.strokeStyle = getComputedStyle(canvas).color;
      pen.stroke();
    }
  });
}

function show(number, spoken) {
  near = number;
  const card = part('.card');
  draw();
  if (number < 0) { card.hidden = true; return; }
  const point = points()[number];
  const {atlas, side, columns} = props.value;
  const [x, y] = place(point);
  const box = part('canvas').getBoundingClientRect();
  const thumb = part('.thumb');
  const shown = 72;
  thumb.style.backgroundImage = `url(${atlas})`;
  thumb.style.backgroundSize = `${columns * shown}px auto`;
  thumb.style.backgroundPosition = `${-(number % columns) * shown}px ${-Math.floor(number / columns) * shown}px`;
  const group = props.value.groups[point[5]];
  const known = [point[4], group === point[4] ? '' : group, props.value.several ? point[2] : ''];
  part('.words').textContent = known.filter(Boolean).join(' · ');
  card.hidden = false;
  card.style.left = `${Math.min(Math.max(4, x + 12), Math.max(4, box.width - card.offsetWidth - 4))}px`;
  card.style.top = `${y + 12 + card.offsetHeight > box.height ? Math.max(4, y - 12 - card.offsetHeight) : y + 12}px`;
  if (spoken) part('.spoken').textContent = part('.words').textContent;
}

function nearest(x, y, most) {
  let best = -1, least = most * most;
  points().forEach((point, number) => {
    const [px, py] = place(point);
    const far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) { least = far; best = number; }
  });
  return best;
}

function step(dx, dy) {
  if (near < 0) return show(points().length ? 0 : -1, true);
  const [x, y] = place(points()[near]);
  let best = near, least = Infinity;
  points().forEach((point, number) => {
    const [px, py] = place(point);
    const ahead = (px - x) * dx + (py - y) * dy, aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
    if (number !== near && ahead > 0 && aside <= 2 * ahead && ahead + 2 * aside < least) {
      least = ahead + 2 * aside;
      best = number;
    }
  });
  show(best, true);
}

function choose() {
  if (near >= 0) trigger('select', {collection: points()[near][2], row: points()[near][3]});
}

const onCanvas = (event) => event.target.tagName === 'CANVAS';
const here = (event) => {
  const box = part('canvas').getBoundingClientRect();
  return nearest(event.clientX - box.left, event.clientY - box.top, 24);
};
element.addEventListener('pointermove', (event) => { if (onCanvas(event)) show(here(event), false); });
element.addEventListener('pointerout', (event) => { if (onCanvas(event) && event.pointerType === 'mouse') show(-1, false); });
element.addEventListener('click', (event) => {
  if (!onCanvas(event)) return;
  const before = near;
  show(here(event), true);
  if (event.pointerType !== 'touch' || before === near) choose();  // on touch the first tap shows, the second searches
});
element.addEventListener('keydown', (event) => {
  if (!onCanvas(event)) return;
  const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
  if (steps[event.key]) { event.preventDefault(); step(...steps[event.key]); }
  if (event.key === 'Enter') choose();
  if (event.key === 'Escape') show(-1, false);
});
function write() {
  near = -1;
  part('figcaption').textContent = props.value.note;
  part('.legend').replaceChildren(...props.value.groups.map((group) => {
    const entry = document.createElement('li');
    entry.append(Object.assign(document.createElement('i'), {className: 'dot'}), group);
    return entry;
  }));
  draw();
}

new ResizeObserver(draw).observe(element);
watch('value', write);
write();
