import { ModelError } from './errors.ts'

/** A parameter of the cost model. */
export interface Parameter {
  readonly unit: 'ns' | 'ns/byte' | 'bytes' | 'reads'
  /** What one unit of it is the price of. */
  readonly meaning: string
  /** Of the profile `pcie-wc`, and of any other profile that says nothing else. */
  readonly default: number
  /** Where the default comes from. */
  readonly source: string
}

export type ParameterName =
  | 'copyByte'
  | 'clearByte'
  | 'cachedAccess'
  | 'uncachedRead'
  | 'writeSpacing'
  | 'writeCombineFlush'
  | 'deviceLocalRead'
  | 'dmaRoundTrip'
  | 'deviceReadBytes'
  | 'deviceReadOverlap'
  | 'vmExit'
  | 'eventFdWakeup'
  | 'interrupt'
  | 'iommuRequest'
  | 'iommuWait'
  | 'iotlbMiss'
  | 'pageConversion'
  | 'lineTransfer'

const AS_COPY = 'Assumed: half of `copyByte`, since nothing is read.'

/** Every parameter, by its name. */
export const PARAMETERS: Readonly<Record<ParameterName, Parameter>> = {
  copyByte: {
    unit: 'ns/byte',
    meaning: 'the CPU copies a byte from RAM to RAM',
    default: 0.077,
    source:
      'A memcpy of large buffers moves 26 GB/s on a Core i7-6700HQ, reads and writes counted: Stack Overflow, question 43343231, "Enhanced REP MOVSB for memcpy" (2017).',
  },
  clearByte: { unit: 'ns/byte', meaning: 'the CPU clears a byte of RAM', default: 0.038, source: AS_COPY },
  cachedAccess: {
    unit: 'ns',
    meaning: 'the CPU loads or stores a word of RAM that is in its cache',
    default: 1.2,
    source: 'Four cycles at 3.4 GHz, first-level cache: AnandTech, "AMD Rome Second Generation EPYC Review" (2019).',
  },
  uncachedRead: {
    unit: 'ns',
    meaning: "the driver loads a word of the device's memory",
    default: 1000,
    source:
      'Below 1,000 ns is usual, 2,000 ns and more were measured: Miller, Watson and Moore, "Motivating Future Interconnects" (ANCS 2009); Intel Community, "How to improve PCIe PIO Read Performance" (about 2020).',
  },
  writeSpacing: {
    unit: 'ns',
    meaning: "the driver stores a word in the device's memory, and nothing combines it with others",
    default: 0,
    source: 'Nothing, since the stores of this profile are combined.',
  },
  writeCombineFlush: {
    unit: 'ns',
    meaning: "a combined line of 64 bytes goes to the device's memory",
    default: 11,
    source:
      'Computed: 64 bytes and 24 of headers at 7.88 GB/s, which PCIe 3.0 x8 carries; the model of the link is from Neugebauer et al., "Understanding PCIe performance for end host networking" (SIGCOMM 2018).',
  },
  deviceLocalRead: {
    unit: 'ns',
    meaning: 'the device reads its own memory, from its request to the answer',
    default: 50,
    source: 'Assumed: DRAM beside the logic that reads it, without a bus between.',
  },
  dmaRoundTrip: {
    unit: 'ns',
    meaning: 'the device reads host memory, from its request to the answer',
    default: 500,
    source:
      'About 100 ns of DRAM, and 300 to 400 ns of an unloaded PCIe: Novakovic et al., "Storm: a fast transactional dataplane for remote data structures" (SYSTOR 2019).',
  },
  deviceReadBytes: {
    unit: 'bytes',
    meaning: 'one read of the device fetches, of its own memory or of host memory',
    default: 64,
    source: 'Assumed: a cache line, the least boundary at which PCIe splits an answer.',
  },
  deviceReadOverlap: {
    unit: 'reads',
    meaning: 'of the device are under way at once',
    default: 8,
    source: 'Assumed: a device of medium size; 1 is a device that waits for each answer.',
  },
  vmExit: {
    unit: 'ns',
    meaning: 'a doorbell leaves the guest and comes back',
    default: 0,
    source: 'Nothing, since the device is a real one and its doorbell is a posted store.',
  },
  eventFdWakeup: {
    unit: 'ns',
    meaning: 'a doorbell wakes the thread that serves the device',
    default: 0,
    source: 'Nothing, since the device is a real one.',
  },
  interrupt: {
    unit: 'ns',
    meaning: 'an interrupt reaches the driver',
    default: 2000,
    source:
      'Assumed: two exits, one to inject it and one to end it; that an interrupt takes several exits is from Gordon et al., "ELI: Bare-Metal Performance for I/O Virtualization" (ASPLOS 2012).',
  },
  iommuRequest: {
    unit: 'ns',
    meaning: 'the IOMMU carries out one MAP or UNMAP, beside the wait',
    default: 300,
    source: 'Assumed: a change of a page table, without a system call to a host.',
  },
  iommuWait: {
    unit: 'ns',
    meaning: 'the driver waits for the IOMMU to answer what was asked',
    default: 4000,
    source:
      'Assumed: `vmExit` and `eventFdWakeup` of a device in software. That MAP and UNMAP take an exit, the VMM and a system call is from Stevens, "Add dynamic iommu backed bounce buffers" (Linux iommu list, 2022).',
  },
  iotlbMiss: {
    unit: 'ns',
    meaning: 'an access of the device misses the IOTLB',
    default: 330,
    source:
      'The growth of a 64-byte read: Neugebauer et al., "Understanding PCIe performance for end host networking" (SIGCOMM 2018).',
  },
  pageConversion: {
    unit: 'ns',
    meaning: 'a page becomes shared, or private again',
    default: 4000,
    source: 'Assumed: a hypercall and two changes of second-stage tables, without the clearing of the page.',
  },
  lineTransfer: {
    unit: 'ns',
    meaning: 'a cache line moves from one core to another',
    default: 80,
    source:
      'Between chiplets 79.5 ns, within one 15 to 19 ns: AnandTech, "AMD Zen 4 Ryzen 9 7950X and Ryzen 5 7600X Review" (2022).',
  },
}

/** A value for each parameter. */
export type Parameters = Readonly<Record<ParameterName, number>>

/** A parameter that a profile sets otherwise than its default. */
export interface Setting {
  readonly value: number
  readonly source: string
}

export type ProfileName = 'memslot' | 'pcie-wc' | 'pcie-uc' | 'trap'

export interface Profile {
  readonly meaning: string
  readonly settings: Readonly<Partial<Record<ParameterName, Setting>>>
}

const EXIT: Setting = {
  value: 1000,
  source:
    'The ioctl that runs a guest of KVM until its next exit takes 2,528 cycles on an AMD processor, so 1,000 ns at 2.5 GHz: Linux mailing list, on vmload for SVM guests (December 2020).',
}
const WAKEUP: Setting = {
  value: 3000,
  source:
    'A trip through the scheduler takes "a few micro-seconds": Documentation/virt/kvm/halt-polling.rst of Linux 5.10 (2020).',
}
const NO_COMBINING: Setting = { value: 0, source: 'Nothing is combined.' }
const HOST_CACHE: Setting = { value: PARAMETERS.cachedAccess.default, source: 'As `cachedAccess`.' }
const HOST_DMA: Setting = { value: PARAMETERS.cachedAccess.default, source: 'The device is a thread of the host.' }

/** Where the device's memory lies, and what serves it. */
export const PROFILES: Readonly<Record<ProfileName, Profile>> = {
  memslot: {
    meaning: 'memory of the host that the VMM maps into the guest as the memory of a device in software',
    settings: {
      uncachedRead: HOST_CACHE,
      writeSpacing: HOST_CACHE,
      writeCombineFlush: NO_COMBINING,
      deviceLocalRead: HOST_CACHE,
      dmaRoundTrip: HOST_DMA,
      vmExit: EXIT,
      eventFdWakeup: WAKEUP,
    },
  },
  'pcie-wc': { meaning: 'memory behind the BAR of a real device, mapped write-combining', settings: {} },
  'pcie-uc': {
    meaning: 'memory behind the BAR of a real device, mapped uncached',
    settings: {
      writeSpacing: {
        value: 100,
        source:
          '50 to 300 ns between two stores were measured: Intel Community, "Why do MemReq TLPs take 100s nanoseconds to be generated after MMIO writes?" (about 2020).',
      },
      writeCombineFlush: NO_COMBINING,
    },
  },
  trap: {
    meaning: 'memory that a VMM emulates: every access of the driver leaves the guest',
    settings: {
      uncachedRead: EXIT,
      writeSpacing: EXIT,
      writeCombineFlush: NO_COMBINING,
      deviceLocalRead: HOST_CACHE,
      dmaRoundTrip: HOST_DMA,
      vmExit: EXIT,
      eventFdWakeup: WAKEUP,
    },
  },
}

export const PARAMETER_NAMES: readonly ParameterName[] = Object.keys(PARAMETERS) as ParameterName[]
export const PROFILE_NAMES: readonly ProfileName[] = Object.keys(PROFILES) as ProfileName[]

/**
 * The parameters of a profile, with overrides. Values of `overrides` are numbers, or texts of numbers.
 *
 * @throws ModelError `MODEL_PROFILE`, `MODEL_PARAMETER`, `MODEL_VALUE`
 */
export function parametersOf(profile: string, overrides: Readonly<Record<string, unknown>> = {}): Parameters {
  const values: Record<string, number> = {}
  for (const name of PARAMETER_NAMES) values[name] = valueIn(profile, name).value
  for (const [name, value] of Object.entries(overrides)) {
    if (!Object.hasOwn(PARAMETERS, name)) {
      throw new ModelError('MODEL_PARAMETER', name, `there is no such parameter; known: ${PARAMETER_NAMES.join(', ')}`)
    }
    values[name] = checked(name as ParameterName, value)
  }
  return values as Parameters
}

/** The value of a parameter in a profile, and its source. Throws ModelError `MODEL_PROFILE`. */
export function valueIn(profile: string, name: ParameterName): Setting {
  if (!Object.hasOwn(PROFILES, profile)) {
    throw new ModelError('MODEL_PROFILE', profile, `there is no such profile; known: ${PROFILE_NAMES.join(', ')}`)
  }
  const { settings } = PROFILES[profile as ProfileName]
  return settings[name] ?? { value: PARAMETERS[name].default, source: PARAMETERS[name].source }
}

/** Turns `name=value` into an override. Throws ModelError `MODEL_VALUE`. */
export function parseSetting(text: string): readonly [string, string] {
  const at = text.indexOf('=')
  if (at > 0) return [text.slice(0, at), text.slice(at + 1)]
  throw new ModelError('MODEL_VALUE', text, 'a setting is written name=value, as in uncachedRead=800')
}

function checked(name: ParameterName, value: unknown): number {
  const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value
  // What a price is divided by is 1 at least.
  const least = PARAMETERS[name].unit === 'bytes' || PARAMETERS[name].unit === 'reads' ? 1 : 0
  if (typeof number === 'number' && Number.isFinite(number) && number >= least) return number
  throw new ModelError('MODEL_VALUE', name, `${JSON.stringify(value)}: a number from ${least} on is needed`, { value })
}
