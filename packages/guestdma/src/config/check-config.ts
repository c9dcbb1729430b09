import type { BlkDeviceOptions, NetDeviceOptions } from '@guestdma/devices'
import { type DmaScheme, listedIds, UnknownSchemeError } from '@guestdma/dma'
import { GuestMemory, type GuestRange } from '@guestdma/memory'
import { FEATURE_BITS, MAX_QUEUE_SIZE } from '@guestdma/spec'
import type { DeviceConfig, MachineConfig } from './config.ts'
import { MachineError } from './errors.ts'
import {
  checkFields,
  type Fields,
  has,
  isFunction,
  isInteger,
  isList,
  isObject,
  isString,
  may,
  mayBeBoolean,
  mayBeFunction,
  mayBeInteger,
  mayBeOneOf,
  must,
  type Rules,
  refuse,
} from './rules.ts'

/**
 * The one place where a machine's configuration is checked, before anything is made of it: types do not reach callers in
 * JavaScript. What only a part can judge, such as whether ranges overlap, the part checks.
 *
 * @throws MachineError `MACHINE_CONFIG`; `details.path` says which, such as `devices[1].device.mac`, and `details.value`
 *   what it holds
 */
export function checkConfig(config: MachineConfig): void {
  const machine = { part: 'machine', path: '' }
  if (!isObject(config)) refuse({ ...machine, path: 'the configuration' }, '', 'an object, { memory, devices }', config)
  checkFields(machine, config, MACHINE)
  const { memory, devices, schemes } = config
  if (!(memory instanceof GuestMemory))
    memory.forEach((range, i) => {
      checkFields({ ...machine, path: `memory[${i}]` }, range as object as Fields, RANGE)
    })
  const ids = new Set<string>()
  schemes?.forEach(({ id }, i) => {
    if (ids.has(id)) {
      const message = `two schemes have the id '${id}'; give one of them another id`
      throw new MachineError('MACHINE_CONFIG', 'machine', message, { path: `schemes[${i}].id`, id })
    }
    ids.add(id)
  })
  const names = new Set<string>()
  devices.forEach((device, i) => {
    checkDevice(`devices[${i}]`, device as object as Fields)
    const { name } = device
    if (names.has(name))
      throw new MachineError('MACHINE_CONFIG', name, 'two devices have this name', { path: `devices[${i}].name`, name })
    names.add(name)
  })
}

/** Throws `DMA_UNKNOWN_SCHEME` where a device names a scheme that the machine does not have. */
export function checkSchemeIds(devices: readonly DeviceConfig[], schemes: readonly DmaScheme[]): void {
  const known = schemes.map(({ id }) => id)
  for (const { name, platform, dma } of devices) {
    for (const id of [...(platform === undefined ? [] : [platform]), ...listedIds(dma ?? 'auto')])
      if (!known.includes(id)) throw new UnknownSchemeError(name, id, known)
  }
}

function checkDevice(path: string, fields: Fields): void {
  const { name, type, transport, make, device } = fields
  if (!isString(name) || name === '') refuse({ part: 'machine', path }, 'name', 'a name for the device', name)
  const at = { part: name, path }
  if (type !== 'net' && type !== 'blk' && !isKind(type))
    refuse(at, 'type', "'net', 'blk' or a DriverKind, { name, deviceId, features, make }", type)
  const driver = type === 'net' ? NET : DRIVER
  // A transport leads to a device that lives elsewhere; a name of one is for a model that runs here.
  if (isObject(transport)) {
    const { translations = null } = fields
    checkFields<object>(at, fields, { ...driver, ...(translations === null ? REMOTE : IN_WORKER) })
    return
  }
  const rules = { ...driver, ...HERE }
  if (make !== undefined || isKind(type)) {
    checkFields<object>(at, fields, isKind(type) ? { ...rules, make: { ...HERE.make, optional: false } } : rules)
    // Options of a model that is not one of ours are its maker's.
    return
  }
  const [model, example] = type === 'net' ? ([NET_MODEL, 'mac'] as const) : ([BLK_MODEL, 'store'] as const)
  checkFields<object>(at, fields, rules, { key: 'device', rules: model })
  if (!isObject(device)) refuse(at, 'device', `the options of the model, such as { ${example} }`, device)
  checkFields<object>({ ...at, path: `${path}.device` }, device, model)
}

const MACHINE: Rules<MachineConfig> = {
  memory: must(
    'a GuestMemory or an array of ranges, [{ base, length, memory }]',
    (value) => value instanceof GuestMemory || (isList(value, isObject) && (value as unknown[]).length > 0),
  ),
  ram: may(
    'a part of guest memory, { base, length }, as numbers',
    (value) => isObject(value) && isInteger(0)(value.base) && isInteger(1)(value.length),
  ),
  schemes: may(
    'an array of schemes, such as [sharedPoolScheme()], not of their ids',
    (value) => isList(value, isScheme) && (value as unknown[]).length > 0,
  ),
  devices: must('an array of devices, [{ type, name, device }]', (value) => isList(value, isObject)),
  transport: mayBeOneOf('mmio', 'pci'),
  events: may('a MachineEvents', (value) => has(value, 'on', 'tell')),
  mayBlock: mayBeBoolean(),
  onWork: mayBeFunction('a function that sees to it that pump() is called'),
  deadlineMs: may(
    'a number of milliseconds, at least 0',
    (value) => typeof value === 'number' && value >= 0 && value < Infinity,
  ),
}

const RANGE: Rules<GuestRange> = {
  base: must('a guest address, an integer of at least 0', isInteger(0)),
  length: must('a number of bytes, at least 1', isInteger(1)),
  memory: must(
    'an ArrayBuffer, a SharedArrayBuffer or a WebAssembly.Memory',
    (value) => isObject(value) && !ArrayBuffer.isView(value),
  ),
  offset: mayBeInteger(0),
}

const queueSize = mayBeInteger(1, MAX_QUEUE_SIZE)

const featureBits = may(`an array of feature bits, integers from 0 to ${FEATURE_BITS - 1}`, (value) =>
  isList(value, isInteger(0, FEATURE_BITS - 1)),
)

/** What is said of every device's driver. */
const DRIVER = {
  type: must("'net', 'blk' or a DriverKind", (value) => isString(value) || isKind(value)),
  name: must('a name for the device', isString),
  platform: may("a scheme's id", isString),
  dma: may(
    "'auto', a scheme's id or an array of ids",
    (value) => isString(value) || (isList(value, isString) && (value as unknown[]).length > 0),
  ),
  mode: mayBeOneOf('map', 'pool'),
  decline: featureBits,
  queueSize,
  interrupts: mayBeBoolean(),
  requestDeadlineMs: may(
    'a positive number of milliseconds',
    (value) => typeof value === 'number' && value > 0 && value < Infinity,
  ),
}

const NET = {
  ...DRIVER,
  observer: may(
    'an object with the functions frames and sent, or one of them',
    (value) => isObject(value) && [value.frames, value.sent].every((call) => call === undefined || isFunction(call)),
  ),
}

/** A device whose model runs here. */
const HERE = {
  transport: may(
    "'mmio' or 'pci', or a VirtioTransport where the device lives elsewhere",
    (value) => value === 'mmio' || value === 'pci',
  ),
  make: mayBeFunction("a function that makes the device's model over a port"),
  device: may('the options of the model', isObject),
}

/** A device that lives elsewhere. */
const REMOTE = {
  transport: must('a VirtioTransport, such as what PciTransport.probe returns', (value) =>
    has(value, 'readStatus', 'writeStatus', 'readFeatures', 'enableQueue', 'notify', 'takeInterrupts'),
  ),
  enforcedBy: mayBeOneOf('peer', 'construction'),
  translations: may(
    'what DeviceWorker.translations is',
    (value) => value === null || has(value, 'follow', 'reach', 'mapped', 'unmapped', 'settle'),
  ),
  detach: mayBeFunction('a function that cuts the device off from memory and returns whether it did'),
  listen: mayBeFunction('a function that calls what it is given at each interrupt, and returns how to stop that'),
  messages: mayBeOneOf('memory'),
}

/** A device in a worker that translates addresses. */
const IN_WORKER = { ...REMOTE, enforcedBy: mayBeOneOf('trusted-code') }

/** What the models of all types have in common. */
const MODEL = {
  offer: featureBits,
  withhold: featureBits,
  requires: may('a FeatureSet, such as FeatureSet.of(33)', (value) => has(value, 'has', 'or')),
  accessPlatform: mayBeOneOf('offered', 'required'),
  inOrderBatches: mayBeBoolean(),
  observer: mayBeFunction('a function that is told of faults'),
  onWork: mayBeFunction('a function that sees to it that the device is polled'),
  queueSize,
}

const NET_MODEL: Rules<Omit<NetDeviceOptions, 'name' | 'port'>> = {
  ...MODEL,
  mac: may(
    'an array of 6 bytes, such as [0x52, 0x54, 0, 1, 2, 3]',
    (value) =>
      (value instanceof Uint8Array || isList(value, isInteger(0, 255))) && (value as ArrayLike<unknown>).length === 6,
  ),
  mtu: mayBeInteger(1, 0xffff),
  link: may('a NetLink, such as new LoopbackLink()', (value) => has(value, 'transmit')),
  status: mayBeBoolean(),
  mergeable: mayBeBoolean(),
}

const BLK_MODEL: Rules<Omit<BlkDeviceOptions, 'name' | 'port'>> = {
  ...MODEL,
  store: must('a BlockStore, such as new MemoryBlockStore(bytes)', (value) => has(value, 'read', 'write', 'flush')),
  id: may('a string', isString),
  readOnly: mayBeBoolean(),
  blockSize: mayBeInteger(1),
  sizeMax: mayBeInteger(1),
  segMax: mayBeInteger(1),
  writeback: mayBeBoolean(),
  queues: mayBeInteger(1),
  maxInFlight: mayBeInteger(1),
  stagingBytes: mayBeInteger(1),
}

function isScheme(value: unknown): boolean {
  return has(value, 'install') && isString((value as Fields).id) && isObject((value as Fields).provider)
}

function isKind(value: unknown): boolean {
  return has(value, 'make') && isInteger(1)((value as Fields).deviceId) && has((value as Fields).features, 'has', 'or')
}
