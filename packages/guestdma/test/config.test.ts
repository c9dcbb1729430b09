import { GuestDmaError } from '@guestdma/memory'
import {
  createMachine,
  directScheme,
  MachineEvents,
  MemoryBlockStore,
  sharedPoolScheme,
  virtioIommuScheme,
} from 'guestdma'
import { describe, expect, it } from 'vitest'
import { BASE, MAC, ranges } from './support/machines.ts'

/** A configuration as JavaScript sees it: any value anywhere. */
type Loose = Record<string, unknown>

const store = (): MemoryBlockStore => new MemoryBlockStore(new Uint8Array(4096))
const range = (more: Loose = {}): Loose => ({ base: BASE, length: 4096, memory: new ArrayBuffer(4096), ...more })
const net = (more: Loose = {}): Loose => ({ type: 'net', name: 'net0', device: { mac: MAC }, ...more })
const blk = (more: Loose = {}): Loose => ({ type: 'blk', name: 'disk0', device: { store: store() }, ...more })
const model = (device: Loose): Loose => ({ devices: [net({ device })] })
const disk = (device: Loose): Loose => ({ devices: [blk({ device: { store: store(), ...device } })] })

async function refusal(config: unknown): Promise<GuestDmaError> {
  const events = new MachineEvents()
  const heard: unknown[] = []
  events.on('scheme', (event) => heard.push(event))
  const whole =
    typeof config === 'object' && config !== null && !Array.isArray(config)
      ? { memory: ranges(), devices: [net()], events, ...config }
      : config
  const error: unknown = await createMachine(whole as never).then(
    () => null,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(GuestDmaError)
  expect(heard).toEqual([])
  return error as GuestDmaError
}

type Case = readonly [what: string, config: unknown, path: string, message: RegExp]

const MACHINE: readonly Case[] = [
  ['nothing', undefined, 'the configuration', /^machine: the configuration must be an object, .* not undefined$/],
  ['null', null, 'the configuration', /not null/],
  ['text', 'direct', 'the configuration', /not 'direct'/],
  ['an array', [], 'the configuration', /not an empty array/],
  ['memory in bytes', { memory: 64 << 20 }, 'memory', /\[\{ base, length, memory \}\], not 67108864/],
  ['no memory', { memory: undefined }, 'memory', /not undefined/],
  ['memory null', { memory: null }, 'memory', /not null/],
  ['memory as one range', { memory: range() }, 'memory', /array of ranges.* not an object/],
  ['memory as a buffer', { memory: new ArrayBuffer(64) }, 'memory', /array of ranges.* not an ArrayBuffer/],
  ['memory as a WebAssembly.Memory', { memory: new WebAssembly.Memory({ initial: 1 }) }, 'memory', /not a Memory/],
  ['memory without ranges', { memory: [] }, 'memory', /not an empty array/],
  ['a hole between ranges', { memory: Object.assign(new Array(2), [range()]) }, 'memory', /not an array of 2/],
  ['a list of buffers', { memory: [new ArrayBuffer(64)] }, 'memory[0].base', /guest address.* not undefined/],
  ['a base as text', { memory: [range({ base: '0x80000000' })] }, 'memory[0].base', /not '0x80000000'/],
  ['a base that is a bigint', { memory: [range({ base: 1n })] }, 'memory[0].base', /not 1/],
  ['a negative base', { memory: [range({ base: -4096 })] }, 'memory[0].base', /at least 0, not -4096/],
  ['a length of 0', { memory: [range({ length: 0 })] }, 'memory[0].length', /at least 1, not 0/],
  ['a length as text', { memory: [range({ length: '4096' })] }, 'memory[0].length', /not '4096'/],
  ['a view instead of a buffer', { memory: [range({ memory: new Uint8Array(8) })] }, 'memory[0].memory', /Uint8Array/],
  ['a range without a buffer', { memory: [range({ memory: undefined })] }, 'memory[0].memory', /not undefined/],
  ['a misspelt offset', { memory: [range({ ofset: 16 })] }, 'memory[0].ofset', /did you mean 'offset'\?/],
  ['an offset as text', { memory: [range({ offset: '0' })] }, 'memory[0].offset', /not '0'/],
  ['a part of memory in bytes', { ram: 4096 }, 'ram', /base, length.* not 4096/],
  ['a part of memory without length', { ram: { base: BASE } }, 'ram', /not an object/],
  ['schemes by id', { schemes: ['direct'] }, 'schemes', /sharedPoolScheme\(\).* not \['direct'\]/],
  ['one scheme', { schemes: directScheme() }, 'schemes', /an array of schemes/],
  ['the function instead of the scheme', { schemes: [directScheme] }, 'schemes', /not \[a function\]/],
  ['no schemes', { schemes: [] }, 'schemes', /not an empty array/],
  ['a transport in capitals', { transport: 'PCI' }, 'transport', /'mmio' or 'pci', not 'PCI'/],
  ['a transport null', { transport: null }, 'transport', /not null/],
  ['a deadline that is no number', { deadlineMs: Number.NaN }, 'deadlineMs', /not NaN/],
  ['a deadline as text', { deadlineMs: '100' }, 'deadlineMs', /milliseconds.* not '100'/],
  ['onWork that is no function', { onWork: true }, 'onWork', /function.* not true/],
  ['another emitter', { events: new EventTarget() }, 'events', /MachineEvents, not an EventTarget/],
  ['mayBlock as text', { mayBlock: 'no' }, 'mayBlock', /true or false, not 'no'/],
  ['a symbol', { mayBlock: Symbol('yes') }, 'mayBlock', /not Symbol\(yes\)/],
  ['a misspelt option', { device: [net()] }, 'device', /there is no option device; did you mean 'devices'\?/],
  ['an unknown option', { gpu: true }, 'gpu', /there are memory, ram, schemes, devices, /],
  ['no devices', { devices: undefined }, 'devices', /not undefined/],
  ['one device', { devices: net() }, 'devices', /array of devices/],
  ['devices by name', { devices: ['net0'] }, 'devices', /not \['net0'\]/],
  ['a device null', { devices: [null] }, 'devices', /array of devices/],
  ['a device without a name', { devices: [net(), { type: 'net' }] }, 'devices[1].name', /a name .* not undefined/],
  ['a device with an empty name', { devices: [net({ name: '' })] }, 'devices[0].name', /not ''/],
  ['a device with a number', { devices: [net({ name: 7 })] }, 'devices[0].name', /not 7/],
]

const DEVICE: readonly Case[] = [
  [
    'a type that is none',
    { devices: [net({ type: 'block' })] },
    'devices[0].type',
    /'net', 'blk' or a DriverKind.*, not 'block'/,
  ],
  ['no type', { devices: [net({ type: undefined })] }, 'devices[0].type', /not undefined/],
  ['no options', { devices: [net({ device: undefined })] }, 'devices[0].device', /\{ mac \}, not undefined/],
  ['a model instead of its options', { devices: [blk({ device: [] })] }, 'devices[0].device', /not an empty array/],
  [
    'an address beside the options',
    { devices: [net({ mac: MAC })] },
    'devices[0].mac',
    /belongs to devices\[0\]\.device/,
  ],
  ['a misspelt option', { devices: [net({ plattform: 'direct' })] }, 'devices[0].plattform', /did you mean 'platform'/],
  [
    'an observer of a disk',
    { devices: [blk({ observer: {} })] },
    'devices[0].observer',
    /belongs to devices\[0\]\.device/,
  ],
  ['a mode that is none', { devices: [net({ mode: 'copy' })] }, 'devices[0].mode', /'map' or 'pool'/],
  ['a transport of another kind', { devices: [net({ transport: 'usb' })] }, 'devices[0].transport', /not 'usb'/],
  ['a queue without entries', { devices: [net({ queueSize: 0 })] }, 'devices[0].queueSize', /1 to 32768, not 0/],
  ['a queue size as text', { devices: [net({ queueSize: '256' })] }, 'devices[0].queueSize', /not '256'/],
  ['interrupts as a number', { devices: [net({ interrupts: 1 })] }, 'devices[0].interrupts', /true or false/],
  ['a negative deadline', { devices: [net({ requestDeadlineMs: -1 })] }, 'devices[0].requestDeadlineMs', /not -1/],
  [
    'a platform that is a scheme',
    { devices: [net({ platform: directScheme() })] },
    'devices[0].platform',
    /scheme's id/,
  ],
  ['a choice that is a scheme', { devices: [net({ dma: directScheme() })] }, 'devices[0].dma', /an array of ids/],
  ['a choice of schemes', { devices: [net({ dma: [directScheme()] })] }, 'devices[0].dma', /an array of ids/],
  ['an empty choice', { devices: [net({ dma: [] })] }, 'devices[0].dma', /not an empty array/],
  ['a model instead of a function', { devices: [net({ make: {} })] }, 'devices[0].make', /function/],
  [
    'an observer that is a function',
    { devices: [net({ observer: () => {} })] },
    'devices[0].observer',
    /frames and sent/,
  ],
  ['an address as text', model({ mac: '52:54:00:01:02:03' }), 'devices[0].device.mac', /0x52.*not '52:54:00:01:02:03'/],
  [
    'an address of 5 bytes',
    model({ mac: [2, 0, 0, 0, 0] }),
    'devices[0].device.mac',
    /6 bytes.* not \[2, 0, 0, 0, 0\]/,
  ],
  ['an address null', model({ mac: null }), 'devices[0].device.mac', /not null/],
  ['an MTU as text', model({ mtu: '1500' }), 'devices[0].device.mtu', /not '1500'/],
  ['a link that is a function', model({ link: () => {} }), 'devices[0].device.link', /NetLink/],
  ['bits as text', model({ offer: ['29'] }), 'devices[0].device.offer', /feature bits/],
  ['a bit that is none', model({ withhold: [128] }), 'devices[0].device.withhold', /from 0 to 127/],
  ['required bits as a list', model({ requires: [33] }), 'devices[0].device.requires', /FeatureSet/],
  ['onWork that is no function', model({ onWork: 1 }), 'devices[0].device.onWork', /function/],
  ['a port of its own', model({ port: {} }), 'devices[0].device.port', /no option/],
  ['no store', disk({ store: undefined }), 'devices[0].device.store', /MemoryBlockStore\(bytes\), not undefined/],
  [
    'bytes as a store',
    disk({ store: new Uint8Array(512) }),
    'devices[0].device.store',
    /BlockStore.* not a Uint8Array/,
  ],
  ['a store without flush', disk({ store: { read() {}, write() {} } }), 'devices[0].device.store', /BlockStore/],
  ['readOnly as text', disk({ readOnly: 'yes' }), 'devices[0].device.readOnly', /true or false/],
  ['an id that is a number', disk({ id: 7 }), 'devices[0].device.id', /a string, not 7/],
  ['a misspelt option of the model', disk({ readonly: true }), 'devices[0].device.readonly', /did you mean 'readOnly'/],
]

describe('machine/config: what cannot be is refused before anything is made, with its path and what would be right', () => {
  it.each(MACHINE)('%s', async (_what, config, path, message) => {
    const error = await refusal(config)
    expect(error).toMatchObject({ code: 'MACHINE_CONFIG', part: 'machine', details: { path } })
    expect(error.message).toContain(path)
    expect(error.message).toMatch(message)
  })

  it.each(DEVICE)('a device with %s', async (_what, config, path, message) => {
    const error = await refusal(config)
    const [{ name }] = (config as { devices: { name: string }[] }).devices
    expect(error).toMatchObject({ code: 'MACHINE_CONFIG', part: name, details: { path } })
    expect(error.message).toContain(path)
    expect(error.message).toMatch(message)
  })

  it('every option is refused as null', async () => {
    const machine = ['memory', 'ram', 'schemes', 'devices', 'transport', 'events', 'mayBlock', 'onWork', 'deadlineMs']
    for (const key of machine) expect((await refusal({ [key]: null })).details).toMatchObject({ path: key })
    const device = ['type', 'name', 'platform', 'dma', 'transport', 'mode', 'queueSize', 'interrupts', 'make', 'device']
    for (const key of [...device, 'requestDeadlineMs', 'observer'])
      expect((await refusal({ devices: [net({ [key]: null })] })).details).toMatchObject({ path: `devices[0].${key}` })
  })

  it('an option that is undefined counts as left out', async () => {
    const whole = { memory: ranges(), schemes: undefined, onWork: undefined, devices: [net({ dma: undefined })] }
    const machine = await createMachine(whole as never)
    await machine.close()
  })

  it.each([
    ['ranges that overlap', { memory: [range(), range({ base: BASE + 16 })] }, 'MEMORY_OVERLAP', /begins inside/],
    ['a range beyond its buffer', { memory: [range({ length: 8192 })] }, 'MEMORY_OUTSIDE', /inside the buffer/],
    ['a buffer that is none', { memory: [range({ memory: {} })] }, 'MEMORY_SOURCE', /WebAssembly\.Memory/],
    ['ram outside memory', { ram: { base: 0, length: 4096 } }, 'MEMORY_OUTSIDE', /not inside one range/],
    [
      'two schemes of one id',
      { schemes: [sharedPoolScheme(), sharedPoolScheme({ size: 1 << 20 })] },
      'MACHINE_CONFIG',
      /the id 'shared-pool'/,
    ],
    ['two devices of one name', { devices: [net(), net()] }, 'MACHINE_CONFIG', /net0: two devices/],
    [
      'an unknown scheme',
      { devices: [net({ dma: 'swiotlb' })] },
      'DMA_UNKNOWN_SCHEME',
      /known: on-device, virtio-iommu/,
    ],
    ['an unknown scheme in a list', { devices: [net({ dma: ['direct', 'x'] })] }, 'DMA_UNKNOWN_SCHEME', /'x'/],
    ['an unknown platform', { devices: [net({ platform: 'iommu' })] }, 'DMA_UNKNOWN_SCHEME', /'iommu'/],
    ['a multicast address', model({ mac: [1, 0, 0, 0, 0, 0] }), 'DEVICE_OPTION', /unicast/],
    ['an MTU that no device may have', model({ mtu: 20 }), 'DEVICE_OPTION', /from 68/],
    ['a store of half a sector', disk({ store: { ...methods(), capacity: 100 } }), 'STORE_CAPACITY', /512/],
    ['a store without capacity', disk({ store: methods() }), 'STORE_CAPACITY', /undefined/],
  ])('the part itself refuses %s', async (_what, config, code, message) => {
    const error = await refusal(config)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  it('the second device is looked at before the first is made', async () => {
    let made = 0
    const make = (): void => void made++
    const devices = [net({ make }), blk({ dma: 'swiotlb' })]
    expect(await refusal({ devices })).toMatchObject({ code: 'DMA_UNKNOWN_SCHEME', part: 'disk0' })
    expect(await refusal({ devices: [net({ make }), blk({ mode: 1 })] })).toMatchObject({ part: 'disk0' })
    expect(made).toBe(0)
  })

  it('a scheme that needs another platform says which option gives it', async () => {
    const schemes = [sharedPoolScheme(), directScheme(), virtioIommuScheme()]
    const error = await refusal({ schemes, devices: [net({ dma: 'virtio-iommu' })] })
    expect(error).toMatchObject({ code: 'DMA_NO_USABLE_BACKEND', part: 'net0' })
    expect(error.message).toMatch(/stands on the platform of 'shared-pool'.*option platform: 'virtio-iommu'/)
  })
})

function methods(): Loose {
  return { read() {}, write() {}, flush() {} }
}
