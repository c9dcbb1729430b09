import { Region } from '@guestdma/memory'
import { describe, expect, test } from 'vitest'
import { type PciCapability, type RegisterFaultReason, virtioCapability } from '../src/index.ts'
import { MAC, type PciMachine, pciMachine, RecordingLink } from './support/devices.ts'
import { capabilities, MASTER } from './support/pci.ts'

const COMMON_CFG = 1
const NOTIFY_CFG = 2
const ISR_CFG = 3
const DEVICE_CFG = 4
const PCI_CFG = 5

const fault = (
  reason: RegisterFaultReason,
  space: 'config' | number,
  offset: number,
  size: number,
  value: number | null,
): unknown => ({ kind: 'register', device: 'net0', reason, space, offset, size, value })

describe('virtio structure capabilities (virtio 1.4 §4.1.4)', () => {
  test('one of each type, each inside its BAR, with its whole length in cap_len', {
    tags: [
      '4.1.4.2/cap-len',
      '4.1.4.3.1/exists',
      '4.1.4.4.1/exists',
      '4.1.4.5.1/exists',
      '4.1.4.6/exists',
      '4.1.4.9.1/exists',
      '4.1.4.2/preference',
    ],
  }, () => {
    const m = pciMachine()
    const found = capabilities(m.pci)
    expect(found.filter(({ id }) => id === 9).map(({ type }) => type)).toEqual([1, 2, 3, 4, 5])
    expect(found.filter(({ id }) => id === 0x11)).toHaveLength(1)
    const bytes = found.filter(({ id }) => id === 9).map(({ at }) => m.pci.config.read(at + 2, 1))
    expect(bytes).toEqual([16, 20, 16, 16, 20])
    for (const { at, id, type, bar, offset, length } of found) {
      expect(at % 4).toBe(0)
      if (id !== 9 || type === PCI_CFG) continue
      expect(offset + length).toBeLessThanOrEqual(m.pci.range(bar)?.size ?? 0)
      expect(length).toBeGreaterThan(0)
    }
  })

  test('offsets: common and device configuration at multiples of 4, notification too; ISR status is a byte', {
    tags: ['4.1.4.3.1/offset', '4.1.4.4.1/offset', '4.1.4.4.1/data-offset', '4.1.4.6.1/offset'],
  }, () => {
    const { driver } = pciMachine()
    for (const type of [COMMON_CFG, NOTIFY_CFG, DEVICE_CFG]) expect(driver.structure(type).offset % 4).toBe(0)
    expect(driver.structure(COMMON_CFG).length).toBe(64)
    expect(driver.structure(ISR_CFG).length).toBe(1)
    expect(driver.structure(DEVICE_CFG).length).toBeGreaterThanOrEqual(12)
  })

  test.each([0, 2, 4, 8, 4096])(
    'notification: length >= queue_notify_off * %i + 4 (§4.1.4.4.1)',
    {
      tags: [
        '4.1.4.4.1/length',
        '4.1.4.4.1/length-by-queue',
        '4.1.4.4.1/data-length',
        '4.1.4.4.1/data-length-by-queue',
      ],
    },
    (multiplier) => {
      const m = pciMachine({ notifyMultiplier: multiplier })
      const { at, length, offset, bar } = m.driver.structure(NOTIFY_CFG)
      expect(m.pci.config.read(at + 16, 4)).toBe(multiplier)
      for (const queue of [0, 1]) {
        m.driver.set('queueSelect', queue)
        expect(length).toBeGreaterThanOrEqual(m.driver.get('notifyOff') * multiplier + 4)
      }
      expect(offset + length).toBeLessThanOrEqual(m.pci.range(bar)?.size ?? 0)
    },
  )

  test('MSI-X: a vector for each queue and one for the configuration unless told otherwise (§4.1.5.1.2.1)', {
    tags: ['4.1.5.1.2.1/enough-vectors', '4.1.5.1.2.1/vectors'],
  }, () => {
    const m = pciMachine()
    const at = capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0
    expect(m.pci.config.read(at + 2, 2) + 1).toBe(m.device.queues.length + 1)
  })

  test('MSI-X: the table size is one less than the vectors; table and pending bits are in a memory BAR', {
    tags: ['4.1.5.1.2.1/table-size'],
  }, () => {
    const m = pciMachine({ msixVectors: 300 })
    const at = capabilities(m.pci).find(({ id }) => id === 0x11)?.at ?? 0
    const { config } = m.pci
    expect(config.read(at + 2, 2)).toBe(299)
    const [table, pending] = [config.read(at + 4, 4), config.read(at + 8, 4)]
    expect([table & 7, pending & 7]).toEqual([1, 1])
    expect(pending - 1).toBeGreaterThanOrEqual(300 * 16)
    expect(m.pci.range(1)?.size).toBeGreaterThanOrEqual(pending - 1 + 40)
    expect(m.pci.bar(1)!.read(299 * 16 + 12, 4)).toBe(1)
    expect(m.pci.bar(1)!.read(pending - 1 + 36, 4)).toBe(0)
    const none = pciMachine({ msixVectors: 0 })
    expect(capabilities(none.pci).every(({ id }) => id === 9)).toBe(true)
    expect(none.pci.bar(1)).toBe(null)
  })
})

describe('edited capabilities', () => {
  const find = (list: readonly PciCapability[], type: number): PciCapability =>
    list.find(({ bytes }) => bytes[0] === 9 && bytes[3] === type) as PciCapability

  test('reserved types and BARs, a longer cap_len, several instances, wrapping offsets', () => {
    const m = pciMachine({
      capabilities: (list) => [
        virtioCapability({ type: 6, bar: 1 }),
        virtioCapability({ type: 1, bar: 6, offset: 4, length: 64 }),
        virtioCapability({ type: 4, bar: 0, offset: 0xffff_fffc, length: 0xffff_ffff, id: 9 }),
        virtioCapability({ type: 3, bar: 0, offset: 0x1000, length: 1, extra: [1, 2, 3, 4, 5], capLength: 40 }),
        ...list,
      ],
    })
    const found = capabilities(m.pci)
    expect(found.slice(0, 4)).toMatchObject([
      { type: 6, bar: 1 },
      { type: 1, bar: 6, offset: 4, length: 64 },
      { type: 4, offset: 0xffff_fffc, length: 0xffff_ffff },
      { type: 3, offset: 0x1000, length: 1 },
    ])
    expect(m.pci.config.read(found[3].at + 2, 1)).toBe(40)
    expect(found[4].at % 4).toBe(0)
    expect(found).toHaveLength(10)
  })

  test('a loop in the list, and a link to nowhere', () => {
    const m = pciMachine({
      capabilities: (list) => list.map((one, i) => (i === 3 ? { ...one, next: 0x40 } : one)),
    })
    expect(m.pci.config.read(0x34, 1)).toBe(0x40)
    const loop: number[] = []
    for (let at = 0x40; loop.length < 6; at = m.pci.config.read(at + 1, 1)) loop.push(at)
    expect(loop[4]).toBe(loop[0])
  })

  test('without MSI-X, or without any', () => {
    const without = pciMachine({ capabilities: (list) => list.filter(({ bytes }) => bytes[0] !== 0x11) })
    without.driver.start([without.rx, without.tx])
    without.device.setLink(false)
    without.device.poll(1)
    expect(without.line.asserted).toBe(true)
    expect(() => pciMachine({ capabilities: () => [] })).toThrow('no capability')
    expect(() => pciMachine({ capabilities: () => [{ bytes: new Uint8Array(1) }] })).toThrow(
      expect.objectContaining({ code: 'DEVICE_OPTION' }),
    )
  })

  test('the window sees what the edited list says, and nothing throws where that leads nowhere', () => {
    const m = pciMachine({
      capabilities: (list) => [
        find(list, NOTIFY_CFG),
        find(list, ISR_CFG),
        virtioCapability({ type: 4, bar: 5, length: 64 }),
        virtioCapability({ type: 1, bar: 0, offset: 0xffff_f000, length: 0x2000 }),
        find(list, PCI_CFG),
      ],
    })
    const w = window(m)
    // No BAR, then no bytes in the BAR: the list promised both.
    expect(w.read(5, 0, 4)).toBe(0)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'window' }])
    expect(w.read(0, 0xffff_f000, 4)).toBe(0)
    expect(m.device.faults.last().at(-1)).toMatchObject({ reason: 'unknown', space: 0, offset: 0xffff_f000 })
    // Shared memory 4 GiB into the BAR is beyond what the window can name.
    const far = pciMachine({
      capabilities: (list) => [
        virtioCapability({ type: 8, bar: 0, length: 64, extra: [1, 0, 0, 0, 0, 0, 0, 0] }),
        find(list, NOTIFY_CFG),
        find(list, PCI_CFG),
      ],
    })
    expect(window(far).read(0, 0x14, 1)).toBe(0)
    expect(far.device.faults.last()).toMatchObject([{ reason: 'window' }])
    // Common configuration is there, but not on the list.
    expect(w.read(0, 0x14, 1)).toBe(0)
    expect(m.device.faults.last().at(-1)).toMatchObject({ reason: 'window' })
  })
})

/** The access capability: virtio 1.4 §4.1.4.9. */
function window(m: PciMachine): {
  readonly at: number
  aim(bar: number, offset: number, length: number): void
  read(bar: number, offset: number, length: 1 | 2 | 4): number
  write(bar: number, offset: number, length: 1 | 2 | 4, value: number): void
} {
  const { config } = m.pci
  const at = capabilities(m.pci).find(({ type, id }) => type === PCI_CFG && id === 9)?.at ?? 0
  const aim = (bar: number, offset: number, length: number): void => {
    config.write(at + 4, 1, bar)
    config.write(at + 12, 4, length)
    config.write(at + 8, 4, offset)
  }
  return {
    at,
    aim,
    read: (bar, offset, length) => {
      aim(bar, offset, length)
      return config.read(at + 16, length)
    },
    write: (bar, offset, length, value) => {
      aim(bar, offset, length)
      config.write(at + 16, length, value)
    },
  }
}

describe('configuration access capability (virtio 1.4 §4.1.4.9)', () => {
  test('reads and writes the structures without Memory Space', { tags: ['4.1.4.9.1/write', '4.1.4.9.1/read'] }, () => {
    const link = new RecordingLink()
    const m = pciMachine({}, { link })
    m.driver.start([m.rx, m.tx])
    m.driver.command = MASTER
    const w = window(m)
    const at = (type: number): [number, number] => [m.driver.structure(type).bar, m.driver.structure(type).offset]
    const [bar, common] = at(COMMON_CFG)
    expect(w.read(bar, common + 0x12, 2)).toBe(2)
    w.write(bar, common + 0x16, 2, 1)
    expect([w.read(bar, common + 0x16, 2), w.read(bar, common + 0x20, 4)]).toEqual([1, m.tx.desc])
    const [configBar, config] = at(DEVICE_CFG)
    expect([0, 1, 2, 3, 4, 5].map((i) => w.read(configBar, config + i, 1))).toEqual(MAC)
    m.device.queues[1].marked = false
    const [notifyBar, notify] = at(NOTIFY_CFG)
    w.write(notifyBar, notify + 4, 2, 1)
    expect(m.device.queues[1].marked).toBe(true)
    m.device.setLink(false)
    const [isrBar, isr] = at(ISR_CFG)
    expect([w.read(isrBar, isr, 1), w.read(isrBar, isr, 1)]).toEqual([2, 0])
    w.write(bar, common + 0x14, 1, 0)
    expect([m.device.status, m.device.faults.count]).toEqual([0, 0])
  })

  test('bar, offset, length and data are read-write; the rest is not', () => {
    const m = pciMachine()
    const { at, aim } = window(m)
    const { config } = m.pci
    aim(0xab, 0x1234_5678, 0x9abc_def0)
    expect([config.read(at + 4, 1), config.read(at + 8, 4), config.read(at + 12, 4)]).toEqual([
      0xab, 0x1234_5678, 0x9abc_def0,
    ])
    expect(m.device.faults.count).toBe(0)
    config.write(at + 4, 4, 0xffff_ff00)
    expect(config.read(at + 4, 4)).toBe(0)
    expect(m.device.faults.last()).toMatchObject([{ reason: 'read-only', offset: at + 4 }])
  })

  test('an access of the width that length says, with the first bytes of the data', () => {
    const region = new Region(new ArrayBuffer(0x1000), 'pool')
    const m = pciMachine({ swiotlb: { window: { region, offset: 0, length: 0x1000 } } })
    const { at, aim } = window(m)
    const { config } = m.pci
    region.u32[1] = 0xdead_beef
    aim(2, 4, 2)
    config.write(at + 16, 4, 0x1234_5678)
    expect(region.u32[1]).toBe(0xdead_5678)
    // A read stores the first bytes; what follows keeps its value.
    expect(config.read(at + 16, 4)).toBe(0x1234_5678)
    region.u32[1] = 0x1111_2222
    expect(config.read(at + 16, 4)).toBe(0x1234_2222)
    aim(2, 4, 4)
    expect([config.read(at + 16, 1), config.read(at + 18, 2)]).toEqual([0x22, 0x1111])
    expect(m.device.faults.count).toBe(0)
  })

  test.each<[string, number, number, number]>([
    ['length 0', 0, 0, 0],
    ['length 3', 0, 0, 3],
    ['length 8', 0, 0, 8],
    ['length 2^32 - 1', 0, 0, 0xffff_ffff],
    ['no multiple of the length', 0, 2, 4],
    ['no multiple of the length', 0, 0x17, 2],
    ['a BAR that is not there', 3, 0, 4],
    ['a reserved BAR', 6, 0, 4],
    ['a reserved BAR', 255, 0, 4],
    ['between the structures', 0, 0x40, 4],
    ['over the end of a structure', 0, 0x1000, 4],
    ['the table of MSI-X, which is no virtio structure', 1, 0, 4],
    ['an offset that wraps', 0, 0xffff_fffc, 4],
  ])('reads 0 and is ignored: %s', (_, bar, offset, length) => {
    const m = pciMachine()
    const { at, aim } = window(m)
    const before = m.pci.save()
    aim(bar, offset, length)
    m.device.faults.count = 0
    m.pci.config.write(at + 16, 4, 0xffff_ffff)
    expect(m.device.faults.last().at(-1)).toEqual(fault('window', 'config', at + 16, 4, 0xffff_ffff))
    expect(m.pci.config.read(at + 16, 4)).toBe(0)
    expect(m.device.faults.count).toBe(2)
    const after = m.pci.save()
    expect({ ...after, config: before.config }).toEqual(before)
    expect(m.device.status).toBe(0)
  })

  test('the wrong width for a field is the field’s fault', () => {
    const m = pciMachine()
    const w = window(m)
    expect(w.read(0, 0x14, 4)).toBe(0)
    expect(m.device.faults.last()).toEqual([fault('width', 0, 0x14, 4, null)])
  })
})
