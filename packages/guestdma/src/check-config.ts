import { GuestMemory } from '@guestdma/memory'
import { MAX_QUEUE_SIZE } from '@guestdma/spec'
import type { DeviceConfig, MachineConfig } from './config.ts'
import { MachineError } from './errors.ts'

/**
 * The one place where a machine's configuration is checked, before anything is made of it: types do not reach callers in
 * JavaScript. What only a part can judge, the part checks.
 *
 * @throws MachineError `MACHINE_CONFIG`; `details.field` says which, and `details.value` what it holds
 */
export function checkConfig(config: MachineConfig): void {
  if (!isObject(config))
    throw new MachineError('MACHINE_CONFIG', 'machine', 'the configuration must be an object, { memory, devices }')
  const machine = fieldsOf('machine', config)
  const { memory, ram, schemes, devices, transport, deadlineMs, onWork, events } = machine.fields
  if (!(memory instanceof GuestMemory) && !isList(memory, isObject))
    machine.refuse('memory', 'a GuestMemory or an array of its ranges, { base, length, memory }')
  if (Array.isArray(memory) && memory.some(({ base, length }: Fields) => !isNumber(base) || !isNumber(length)))
    machine.refuse('memory', 'an array of ranges whose base and length are numbers')
  if (ram !== undefined && !(isObject(ram) && isNumber(ram.base) && isNumber(ram.length)))
    machine.refuse('ram', 'a part of guest memory, { base, length }')
  if (schemes !== undefined && !isList(schemes, isScheme))
    machine.refuse('schemes', 'an array of schemes, such as [sharedPoolScheme()]')
  if (transport !== undefined) machine.oneOf('transport', TRANSPORTS)
  if (deadlineMs !== undefined && !(isNumber(deadlineMs) && deadlineMs >= 0 && deadlineMs < Infinity))
    machine.refuse('deadlineMs', 'a number of milliseconds, at least 0')
  if (events !== undefined && !(isObject(events) && typeof events.tell === 'function'))
    machine.refuse('events', 'a MachineEvents')
  if (onWork !== undefined && typeof onWork !== 'function')
    machine.refuse('onWork', 'a function that sees to it that pump() is called')
  if (!isList(devices, isObject)) machine.refuse('devices', 'an array of devices, { type, name, device }')
  const names = new Set<string>()
  for (const device of config.devices) {
    if (typeof device.name !== 'string' || device.name === '')
      machine.refuse('devices', 'an array of devices, each with a name')
    if (names.has(device.name)) throw new MachineError('MACHINE_DEVICE', device.name, 'two devices have this name')
    names.add(device.name)
    checkDevice(device)
  }
}

const TRANSPORTS = ['mmio', 'pci']

function checkDevice(config: DeviceConfig): void {
  const { fields, refuse, oneOf } = fieldsOf(config.name, config)
  oneOf('type', ['net', 'blk'])
  if (fields.transport !== undefined) oneOf('transport', TRANSPORTS)
  if (fields.mode !== undefined) oneOf('mode', ['map', 'pool'])
  const { platform, dma, queueSize, requestDeadlineMs, make, device } = fields
  if (platform !== undefined && typeof platform !== 'string') refuse('platform', "a scheme's id")
  if (dma !== undefined && typeof dma !== 'string' && !isList(dma, (id) => typeof id === 'string'))
    refuse('dma', "'auto', a scheme's id or an array of ids")
  const entries = queueSize as number
  if (queueSize !== undefined && !(Number.isInteger(entries) && entries >= 1 && entries <= MAX_QUEUE_SIZE))
    refuse('queueSize', `an integer from 1 to ${MAX_QUEUE_SIZE}`)
  if (requestDeadlineMs !== undefined && !(isNumber(requestDeadlineMs) && requestDeadlineMs > 0))
    refuse('requestDeadlineMs', 'a positive number of milliseconds')
  if (make !== undefined) {
    if (typeof make !== 'function') refuse('make', "a function that makes the device's model over a port")
    return
  }
  if (!isObject(device))
    refuse('device', `the options of the model, such as { ${config.type === 'net' ? 'mac' : 'store'} }`)
  const model = fieldsOf(config.name, device as Fields)
  const { mac, store, offer, withhold, requires, id } = model.fields
  for (const [name, bits] of Object.entries({ offer, withhold }))
    if (bits !== undefined && !isList(bits, isNumber)) model.refuse(name, 'an array of feature bits')
  if (requires !== undefined && !(isObject(requires) && typeof requires.has === 'function'))
    model.refuse('requires', 'a FeatureSet')
  if (id !== undefined && typeof id !== 'string') model.refuse('id', 'a string')
  if (model.fields.onWork !== undefined && typeof model.fields.onWork !== 'function')
    model.refuse('onWork', 'a function')
  if (config.type === 'net') {
    if (mac !== undefined && !isList(mac, isNumber) && !(mac instanceof Uint8Array))
      model.refuse('mac', '6 bytes, such as [0x52, 0x54, 0, 0, 0, 1]')
  } else if (!isObject(store) || ['read', 'write', 'flush'].some((name) => typeof store[name] !== 'function'))
    model.refuse('store', 'a BlockStore, such as new MemoryBlockStore(bytes)')
}

type Fields = Readonly<Record<string, unknown>>

interface Checked {
  readonly fields: Fields
  refuse(field: string, right: string): never
  oneOf(field: string, values: readonly string[]): void
}

function fieldsOf(part: string, of: object): Checked {
  const fields = of as Fields
  const refuse = (field: string, right: string): never => {
    const value = fields[field]
    throw new MachineError('MACHINE_CONFIG', part, `${field} must be ${right}, not ${describe(value)}`, {
      field,
      value: describe(value),
    })
  }
  const oneOf = (field: string, values: readonly string[]): void => {
    if (!values.includes(fields[field] as string)) refuse(field, values.map((value) => `'${value}'`).join(' or '))
  }
  return { fields, refuse, oneOf }
}

function describe(value: unknown): string {
  if (typeof value === 'string') return `'${value}'`
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${typeof value[0]}`
  return typeof value === 'object' && value !== null
    ? 'an object'
    : typeof value === 'function'
      ? 'a function'
      : `${value}`
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number'
}

function isList(value: unknown, of: (item: unknown) => boolean): boolean {
  return Array.isArray(value) && value.every(of)
}

function isScheme(value: unknown): boolean {
  return (
    isObject(value) && typeof value.id === 'string' && isObject(value.provider) && typeof value.install === 'function'
  )
}
