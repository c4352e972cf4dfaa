/** Results to docs/performance.svg: two panels of bars, readable on light and dark pages alike (pure). */
import { Figures, type Spread } from './figures.ts';
import type { Results } from './sample.ts';
import { numberText } from './table.ts';
import { BULK_NAMES, TARGETS, type Target } from './targets.ts';

const WIDTH = 920;
const LEFT = 90;
const RIGHT = 60;
const BAR = 13;
const GROUP_GAP = 14;
const PANEL_HEAD = 58;
const COLOURS = ['#1f6feb', '#79b8ff', '#3fb6a8', '#c98a1b', '#8c8c8c', '#a371f7'] as const;

interface Bar {
  readonly spread: Spread | undefined;
  readonly colour: string;
}

interface Group {
  readonly label: string;
  readonly bars: readonly Bar[];
  readonly target: Target | undefined;
}

interface Panel {
  readonly title: string;
  readonly note: string;
  /** Of the axis. */
  readonly most: number;
  readonly step: number;
  readonly tick: (value: number) => string;
  readonly groups: readonly Group[];
}

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

function text(x: number, y: number, content: string, attributes = ''): string {
  return `<text x="${round(x)}" y="${round(y)}"${attributes && ` ${attributes}`}>${escaped(content)}</text>`;
}

const round = (value: number): number => Math.round(value * 10) / 10;

/** A whole SVG document. Contenders without a figure in a panel have no bar there. */
export function chart(results: Results): string {
  const figures = new Figures(results);
  const names = results.info.contenders.map(({ name }) => name);
  const tunnels = names.filter((name) => figures.of(name, { workload: 'up1', key: 'gbps' }) && name !== 'ceiling');
  const colourOf = (name: string): string => COLOURS[tunnels.indexOf(name) % COLOURS.length] ?? '#000';
  const panels = [ratioPanel(figures, tunnels, colourOf), cpuPanel(figures, tunnels, colourOf)];
  const parts: string[] = [legend(tunnels, colourOf, results)];
  let y = 64;
  for (const panel of panels) {
    parts.push(drawPanel(panel, y));
    y += panelHeight(panel);
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${y}" viewBox="0 0 ${WIDTH} ${y}"`,
    '  font-family="system-ui, sans-serif" font-size="12" fill="#1c2128">',
    `<title>proxyvpn: throughput and CPU time, commit ${escaped(results.info.commit)}</title>`,
    '<rect width="100%" height="100%" fill="#ffffff"/>',
    ...parts,
    '</svg>',
    '',
  ].join('\n');
}

function legend(names: readonly string[], colourOf: (name: string) => string, { info }: Results): string {
  const parts = [
    text(12, 20, `${info.cpu}, ${info.cores} cores, Linux ${info.kernel}, commit ${info.commit}`, 'fill="#57606a"'),
  ];
  let x = 12;
  for (const name of names) {
    parts.push(`<rect x="${x}" y="32" width="12" height="12" fill="${colourOf(name)}"/>`, text(x + 17, 42, name));
    x += 35 + name.length * 7;
  }
  parts.push(
    `<line x1="${x + 8}" y1="30" x2="${x + 8}" y2="46" stroke="#d1242f" stroke-width="2"/>`,
    text(x + 16, 42, 'asked of proxyvpn'),
    `<line x1="${x + 138}" y1="30" x2="${x + 138}" y2="46" stroke="#1a7f37" stroke-width="2" stroke-dasharray="3 2"/>`,
    text(x + 146, 42, 'aimed at'),
  );
  return parts.join('\n');
}

function targetOf(workload: string, unit: string, title: string): Target | undefined {
  return TARGETS.find((target) => target.workload === workload && target.unit === unit && target.title.includes(title));
}

function ratioPanel(figures: Figures, names: readonly string[], colourOf: (name: string) => string): Panel {
  const workloads = [
    ...BULK_NAMES.map((workload) => ({ workload, key: 'gbps' })),
    { workload: 'crr64', key: 'perSecond' },
  ];
  return {
    title: 'Share of the ceiling',
    note: 'longer is better; the ceiling is the program that speaks CONNECT itself, in the same round',
    most: 1,
    step: 0.25,
    tick: (value) => `${value * 100} %`,
    groups: workloads.map((figure) => ({
      label: figure.workload,
      target: targetOf(figure.workload, 'x', 'of the ceiling'),
      bars: names.map((name) => ({ spread: figures.ratio(name, 'ceiling', figure), colour: colourOf(name) })),
    })),
  };
}

function cpuPanel(figures: Figures, names: readonly string[], colourOf: (name: string) => string): Panel {
  const groups = BULK_NAMES.map((workload) => ({
    label: workload,
    target: targetOf(workload, 'CPU-s/GiB', 'CPU of the tunnel'),
    bars: names.map((name) => ({
      spread: figures.of(name, { workload, key: 'tunnelCpuSPerGib' }),
      colour: colourOf(name),
    })),
  }));
  const longest = Math.max(0.5, ...groups.flatMap(({ bars }) => bars.map(({ spread }) => spread?.max ?? 0)));
  const step = longest > 2 ? 0.5 : 0.25;
  return {
    title: 'CPU time of the tunnel, seconds per GiB',
    note: 'shorter is better',
    most: Math.ceil(longest / step) * step,
    step,
    tick: (value) => numberText(value),
    groups,
  };
}

const groupHeight = ({ bars }: Group): number => Math.max(1, bars.length) * BAR + GROUP_GAP;

function panelHeight({ groups }: Panel): number {
  return PANEL_HEAD + groups.reduce((sum, group) => sum + groupHeight(group), 0) + 24;
}

function drawPanel(panel: Panel, top: number): string {
  const scale = (value: number): number => LEFT + (Math.min(value, panel.most) / panel.most) * (WIDTH - LEFT - RIGHT);
  const bottom = top + panelHeight(panel) - 24;
  const parts = [
    text(12, top + 14, panel.title, 'font-size="15" font-weight="600"'),
    text(12, top + 31, panel.note, 'fill="#57606a"'),
  ];
  for (let i = 0; i * panel.step <= panel.most + 1e-9; i++) {
    const x = round(scale(i * panel.step));
    parts.push(
      `<line x1="${x}" y1="${top + PANEL_HEAD - 8}" x2="${x}" y2="${bottom}" stroke="#d0d7de"/>`,
      text(x, top + PANEL_HEAD - 12, panel.tick(i * panel.step), 'text-anchor="middle" fill="#57606a" font-size="11"'),
    );
  }
  let y = top + PANEL_HEAD;
  for (const group of panel.groups) {
    parts.push(drawGroup(group, y, scale, panel.tick));
    y += groupHeight(group);
  }
  return parts.join('\n');
}

function drawGroup(
  group: Group,
  top: number,
  scale: (value: number) => number,
  tick: (value: number) => string,
): string {
  const height = groupHeight(group) - GROUP_GAP;
  const parts = [text(LEFT - 8, top + height / 2 + 4, group.label, 'text-anchor="end" font-weight="600"')];
  group.bars.forEach(({ spread, colour }, i) => {
    const y = top + i * BAR;
    if (spread === undefined) {
      parts.push(text(LEFT + 4, y + BAR - 3, 'not measured', 'fill="#8c959f" font-size="10"'));
      return;
    }
    const [low, end, high] = [scale(spread.min), scale(spread.median), scale(spread.max)];
    parts.push(
      `<rect x="${LEFT}" y="${y}" width="${round(end - LEFT)}" height="${BAR - 2}" fill="${colour}"/>`,
      `<line x1="${round(low)}" y1="${y + BAR / 2 - 1}" x2="${round(high)}" y2="${y + BAR / 2 - 1}" stroke="#1c2128"/>`,
      text(Math.max(end, high) + 5, y + BAR - 3, valueText(spread.median, tick), 'font-size="10"'),
    );
  });
  const limits = [
    [group.target?.least, 'stroke="#d1242f" stroke-width="2"'],
    [group.target?.aim, 'stroke="#1a7f37" stroke-width="2" stroke-dasharray="3 2"'],
  ] as const;
  for (const [limit, style] of limits) {
    if (limit === undefined) continue;
    const x = round(scale(limit));
    parts.push(`<line x1="${x}" y1="${top - 3}" x2="${x}" y2="${top + height + 1}" ${style}/>`);
  }
  return parts.join('\n');
}

/** As the axis says it, rounded for a label. */
function valueText(value: number, tick: (value: number) => string): string {
  return tick(1).endsWith('%') ? `${Math.round(value * 100)} %` : numberText(value);
}
