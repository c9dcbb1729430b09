/** How a scheme looks in every picture. Colours tell families apart, and symbols the members of one. */
export interface Look {
  /** Contrast of 3:1 at least on white and on the page's dark background; told apart by the colour-blind. */
  readonly colour: string
  readonly symbol: 'circle' | 'square' | 'triangle' | 'diamond' | 'star' | 'cross' | 'wye'
}

const GREY = '#767676'
const BLUE = '#2b7fc4'
const OCHRE = '#a97400'
const RED = '#d55e00'
const GREEN = '#0a8f62'
const PURPLE = '#a2559f'

const LOOKS: Readonly<Record<string, Look>> = {
  none: { colour: GREY, symbol: 'wye' },
  null: { colour: GREY, symbol: 'cross' },
  direct: { colour: GREY, symbol: 'circle' },
  'virtio-iommu': { colour: BLUE, symbol: 'circle' },
  'virtio-iommu-lazy': { colour: BLUE, symbol: 'square' },
  'virtio-iommu-simple': { colour: BLUE, symbol: 'triangle' },
  'virtio-iommu-byte': { colour: BLUE, symbol: 'diamond' },
  'virtio-iommu-bounce': { colour: BLUE, symbol: 'star' },
  'shared-pool': { colour: OCHRE, symbol: 'square' },
  'default-pool': { colour: OCHRE, symbol: 'triangle' },
  'shared-pool-on-lend': { colour: OCHRE, symbol: 'star' },
  'on-device': { colour: RED, symbol: 'diamond' },
  'shared-pages': { colour: GREEN, symbol: 'triangle' },
}

/** For schemes that others wrote. */
const OTHERS: readonly Look['symbol'][] = ['circle', 'square', 'triangle', 'diamond', 'star', 'cross', 'wye']

/** Colours of lines that are no schemes: sizes, batches. From light to dark, and readable on either background. */
export const STEPS: readonly string[] = [GREY, BLUE, GREEN, OCHRE, RED, PURPLE]

/** The look of a scheme. One that others wrote looks the same in every picture and on every day. */
export function lookOf(scheme: string): Look {
  if (Object.hasOwn(LOOKS, scheme)) return LOOKS[scheme]
  let hash = 0
  for (let i = 0; i < scheme.length; i++) hash = (hash * 31 + scheme.charCodeAt(i)) >>> 0
  return { colour: PURPLE, symbol: OTHERS[hash % OTHERS.length] }
}

/** Schemes in the order in which they are listed everywhere: ours first, then those of others by name. */
export function inOrder(schemes: Iterable<string>): string[] {
  const known = Object.keys(LOOKS)
  const place = (scheme: string): number => (known.includes(scheme) ? known.indexOf(scheme) : known.length)
  return [...new Set(schemes)].sort((a, b) => place(a) - place(b) || (a < b ? -1 : 1))
}

/** How the mode of a point is shown: its symbol is filled, hollow, or tinted. */
export function fillOf(mode: string): 'filled' | 'hollow' | 'tinted' {
  if (mode === 'map') return 'filled'
  return mode === 'pool' ? 'hollow' : 'tinted'
}
