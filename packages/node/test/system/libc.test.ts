import { afterEach, describe, expect, it, vi } from 'vitest'

afterEach(() => {
  vi.doUnmock('node:module')
  vi.unstubAllGlobals()
  vi.resetModules()
})

describe('the package without what it needs for system calls', () => {
  it('can be imported without koffi; the first use says what to install', async () => {
    vi.resetModules()
    vi.doMock('node:module', () => ({
      createRequire: () => (name: string) => {
        throw new Error(`Cannot find module '${name}'`)
      },
    }))
    vi.stubGlobal('process', { ...process, platform: 'linux', arch: 'x64' })
    const { EventFd, SharedMemory, UnixSocket, waitReadable } = await import('../../src/index.ts')
    for (const use of [
      () => SharedMemory.create('m', 4096),
      () => EventFd.create(),
      () => UnixSocket.pair(),
      () => waitReadable([0], 0),
    ]) {
      expect(use).toThrow(expect.objectContaining({ code: 'NODE_KOFFI', cause: expect.any(Error) }))
      expect(use).toThrow(/npm install koffi/)
    }
  })

  it.each([
    ['win32', 'x64'],
    ['darwin', 'arm64'],
    ['linux', 'arm'],
  ])('can be imported on %s %s; the first use says what is missing', async (platform, arch) => {
    vi.resetModules()
    vi.stubGlobal('process', { ...process, platform, arch })
    const { SharedMemory } = await import('../../src/index.ts')
    expect(() => SharedMemory.create('m', 4096)).toThrow(
      expect.objectContaining({ code: 'NODE_PLATFORM', details: { platform, arch } }),
    )
  })
})
