import { describe, expect, it } from 'vitest'
import { launchQemu, type QemuOptions } from '../src/index.ts'
import { fakeQemu, greets } from './support/fake-qemu.ts'
import { missing, titled } from './support/machines.ts'

const unsuited = missing()

async function withFake(body: string, test: (options: QemuOptions) => Promise<void>): Promise<void> {
  const { command, remove } = fakeQemu(body)
  try {
    await test({ machine: 'q35', command, deadlineMs: 10_000 })
  } finally {
    remove()
  }
}

describe.skipIf(unsuited !== '')(titled('launchQemu of a program that is not quite QEMU', unsuited), () => {
  it('names the Debian package where the program is missing', async () => {
    for (const [machine, debian] of [
      ['q35', 'qemu-system-x86'],
      ['virt', 'qemu-system-arm'],
    ] as const) {
      await expect(launchQemu({ machine, command: 'no-such-qemu' })).rejects.toMatchObject({
        code: 'QEMU_MISSING',
        message: expect.stringContaining(`in the package ${debian}`),
      })
    }
  })

  it.each<[string, Record<string, unknown>]>([
    ['the machine must be q35, microvm, virt', { machine: 'pc' }],
    ['the machine must be q35, microvm, virt', { machine: 'toString' }],
    ['memory: 1000 bytes must be 2 to 2047 whole MiB', { memory: 1000 }],
    ['memory: 1048576 bytes', { memory: 1 << 20 }],
    ['memory: 4294967296 bytes', { memory: 2 ** 32 }],
    ['memory: 64M bytes', { memory: '64M' }],
    ['pool: 0 bytes must be 1 to 2047 whole MiB', { pool: 0 }],
    ['deadlineMs NaN must be', { deadlineMs: Number.NaN }],
  ])('refuses options: %s', async (message, options) => {
    const launched = launchQemu({ machine: 'q35', command: 'no-such-qemu', ...options } as QemuOptions)
    await expect(launched).rejects.toMatchObject({ code: 'QEMU_OPTIONS', message: expect.stringContaining(message) })
  })

  it('says what it printed where it ends before it connects', async () => {
    await withFake(`console.error('device not found'); process.exit(1)`, async (options) => {
      await expect(launchQemu(options)).rejects.toMatchObject({
        code: 'QEMU_START',
        message: expect.stringMatching(/QEMU ended; it printed: .*device not found/s),
      })
    })
  })

  it('waits no longer than the deadline for a connection and for the greeting', async () => {
    await withFake('setInterval(() => {}, 1000)', async (options) => {
      await expect(launchQemu({ ...options, deadlineMs: 50 })).rejects.toMatchObject({ code: 'QEMU_START' })
    })
    await withFake(`connect('qmp'); connect('qtest')`, async (options) => {
      await expect(launchQemu({ ...options, deadlineMs: 2000 })).rejects.toMatchObject({ code: 'QEMU_LOST' })
    })
  })

  it('says that a version was never tried, and goes on', async () => {
    const body = `${greets('99.1.2')}; connect('qtest', (socket) => socket.write('OK 0x2a\\n'))`
    await withFake(body, async (options) => {
      await using qemu = await launchQemu(options)
      expect(qemu.version).toBe('99.1.2')
      expect(qemu.warnings).toEqual(['QEMU 99.1.2 was not tried; 7.2 was'])
      expect(qemu.qtest.read(0, 4)).toBe(42)
    })
  })

  it('an access throws when the process ends in the middle of it, and ever after', async () => {
    const body = `${greets('7.2.0')}; connect('qtest', () => { console.log('Aborted'); process.exit(1) })`
    await withFake(body, async (options) => {
      await using qemu = await launchQemu(options)
      const lost = expect.objectContaining({ code: 'QEMU_LOST', message: expect.stringContaining('Aborted') })
      expect(() => qemu.qtest.read(0, 4)).toThrow(lost)
      expect(() => qemu.pci(3)).toThrow(lost)
      expect(() => qemu.qmp('stop')).toThrow(expect.objectContaining({ code: 'QEMU_LOST' }))
      expect(() => qemu.takeEvents()).toThrow(expect.objectContaining({ code: 'QEMU_LOST' }))
    })
  })

  it('has no functions and slots beyond those of the machine', async () => {
    const body = `${greets('7.2.0')}; connect('qtest', (socket) => socket.write('OK 0xffffffff\\n'))`
    await withFake(body, async (options) => {
      const refused = expect.objectContaining({ code: 'QEMU_FUNCTION' })
      await using pc = await launchQemu(options)
      for (const [device, fn] of [
        [3, 0],
        [32, 0],
        [0, 8],
        [-1, 0],
        [1.5, 0],
      ]) {
        expect(() => pc.pci(device, fn)).toThrow(refused)
      }
      expect(() => pc.mmio(0)).toThrow(refused)
      await using small = await launchQemu({ ...options, machine: 'microvm' })
      expect(() => small.pci(0)).toThrow(refused)
      for (const slot of [-1, small.mmioSlots, 0.5]) expect(() => small.mmio(slot)).toThrow(refused)
    })
  })
})
