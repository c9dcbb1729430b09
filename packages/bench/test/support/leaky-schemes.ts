import { ForwardingBackend, withBackend } from '@guestdma/conformance'
import type { DmaScheme, DmaTraits } from '@guestdma/dma'
import type { BusPort, Region } from '@guestdma/memory'
import { sharedPagesScheme } from 'guestdma'

const PAGE = 4096

/** A port of a third party in front of another one. What that refuses, `answer` may grant all the same. */
class FrontPort implements BusPort {
  readonly request = new Float64Array(1)
  readonly window = new Float64Array(4)
  region: Region
  offset = 0
  private readonly inner: BusPort
  private readonly answer: (port: FrontPort, length: number, access: 1 | 2) => number

  constructor(inner: BusPort, answer: FrontPort['answer']) {
    this.inner = inner
    this.region = inner.region
    this.answer = answer
  }

  get epoch(): number {
    return this.inner.epoch
  }

  resolve(length: number, access: 1 | 2): number {
    this.inner.request[0] = this.request[0]
    const granted = this.inner.resolve(length, access)
    if (granted === 0) return this.answer(this, length, access)
    this.region = this.inner.region
    this.offset = this.inner.offset
    return granted
  }

  refresh(): void {
    this.inner.refresh()
  }
}

class ClaimsStrict extends ForwardingBackend {
  override get traits(): DmaTraits {
    return { ...super.traits, revocation: 'strict' }
  }
}

/** Claims to revoke strictly. In fact a page that was shared once stays within reach for good. */
export function lyingScheme(): DmaScheme {
  const inner = sharedPagesScheme({ id: 'lying' })
  return {
    ...withBackend(inner, (backend) => new ClaimsStrict(backend)),
    install: (platform) => {
      const make = inner.install(platform)
      return () => {
        const pages = make()
        const all = platform.everything()
        const seen = new Set<number>()
        const resolve = pages.resolve.bind(pages)
        pages.resolve = (length, access) => {
          const first = Math.floor(pages.request[0] / PAGE)
          const granted = resolve(length, access)
          const last = Math.floor((pages.request[0] + granted - 1) / PAGE)
          if (granted > 0) for (let page = first; page <= last; page++) seen.add(page)
          return granted
        }
        return new FrontPort(pages, (port, length, access) => {
          const [address] = port.request
          if (!seen.has(Math.floor(address / PAGE))) return 0
          all.request[0] = address
          const granted = all.resolve(Math.min(length, PAGE - (address % PAGE)), access)
          port.region = all.region
          port.offset = all.offset
          return granted
        })
      }
    },
  }
}

/** Whatever is not lent is answered with zeros, and what is written there is lost. */
export function zeroScheme(): DmaScheme {
  const inner = sharedPagesScheme({ id: 'zeros' })
  return {
    ...inner,
    install: (platform) => {
      const make = inner.install(platform)
      const { region, offset } = platform.reserve(PAGE, PAGE).window
      return () =>
        new FrontPort(make(), (port, length) => {
          const { base, length: bytes } = platform.memory.ranges[0]
          const [address] = port.request
          if (address < base || address >= base + bytes) return 0
          region.u8.fill(0, offset, offset + PAGE)
          port.region = region
          port.offset = offset + (address % PAGE)
          return Math.min(length, PAGE - (address % PAGE))
        })
    },
  }
}
