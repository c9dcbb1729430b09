import { spawn } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { spawnPeer } from '../../src/index.ts'
import { loadsSources } from '../support/system.ts'

const unsuited = process.platform === 'win32' ? ' (skipped: there is no sh)' : ''
const index = fileURLToPath(new URL('../../src/index.ts', import.meta.url))

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10))
}

const spare = (): string => join(tmpdir(), `guestdma-test-${process.pid}-${Math.random()}`)

describe.skipIf(unsuited !== '')(`spawnPeer${unsuited}`, () => {
  it('has a folder and files of its own, which go with it', async () => {
    const file = spare()
    const peer = spawnPeer({
      command: 'sh',
      args: (dir) => ['-c', `echo started >&2; touch ${file} ${dir}/socket; exec sleep 1000`],
      files: [file],
    })
    await until(() => existsSync(join(peer.dir, 'socket')))
    expect(peer.output()).toBe('started')
    expect([alive(peer.pid), peer.ended]).toEqual([true, false])
    await peer.close()
    await peer.close()
    expect([alive(peer.pid), peer.ended, existsSync(file), existsSync(peer.dir)]).toEqual([false, true, false, false])
    expect(await peer.exited).toEqual({ code: null, signal: 'SIGTERM' })
    expect(peer.output()).toBe('started')
  })

  it('ends a program that ignores SIGTERM, and its children', async () => {
    const peer = spawnPeer({
      command: 'sh',
      args: (dir) => ['-c', `trap '' TERM; sleep 1000 & echo $! > ${dir}/child; echo ready; wait; sleep 1000`],
    })
    await until(() => peer.output() === 'ready')
    const child = Number(readFileSync(join(peer.dir, 'child'), 'utf8'))
    await peer.close({ deadlineMs: 20 })
    expect(await peer.exited).toEqual({ code: null, signal: 'SIGKILL' })
    await until(() => !alive(child))
  })

  it('removes the files of a program that ended by itself, and keeps what it printed last', async () => {
    const peer = spawnPeer({ command: 'sh', args: ['-c', 'yes | head -c 10000; echo "out of luck" >&2; exit 3'] })
    expect(await peer.exited).toEqual({ code: 3, signal: null })
    expect(peer.output()).toMatch(/^y\n[y\n]*out of luck$/)
    expect(peer.output().length).toBeLessThanOrEqual(4096)
    await until(() => !existsSync(peer.dir))
    await peer.close()
  })

  it('keeps its standard input open and passes on what is written to it', async () => {
    await using peer = spawnPeer({ command: 'sh', args: ['-c', 'read line; echo "got $line"; sleep 1000'] })
    peer.stdin.write('this\n')
    await until(() => peer.output() === 'got this')
  })

  it('that cannot be started, or whose arguments cannot be made, leaves nothing', async () => {
    let dir = ''
    const args = (own: string): string[] => {
      dir = own
      return []
    }
    expect(() => spawnPeer({ command: 'no-such-program-here', args })).toThrow(
      expect.objectContaining({ code: 'NODE_COMMAND', details: { command: 'no-such-program-here' } }),
    )
    expect(existsSync(dir)).toBe(false)
    const fails = (own: string): string[] => {
      dir = own
      throw new RangeError('no')
    }
    expect(() => spawnPeer({ command: 'sh', args: fails })).toThrow(RangeError)
    expect(existsSync(dir)).toBe(false)
  })

  it.skipIf(!loadsSources)('can be closed by a program that has nothing else to wait for', async () => {
    const code = `
      import { spawnPeer } from '${index}'
      await spawnPeer({ command: 'sleep', args: ['1000'] }).close()
      console.log('closed')`
    const owner = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'ignore'] })
    let printed = ''
    owner.stdout.on('data', (text) => {
      printed += text
    })
    expect(await new Promise((resolve) => owner.once('close', resolve))).toBe(0)
    expect(printed).toBe('closed\n')
  })

  it
    .skipIf(!loadsSources)
    .each(["process.kill(process.pid, 'SIGKILL')", 'process.exit(0)', "throw new Error('crash')"])(
    'leaves no process and no file when its owner ends by: %s',
    async (end) => {
      const files = [spare(), spare()]
      for (const file of files) writeFileSync(file, '')
      const code = `
        import { spawnPeer } from '${index}'
        const peers = ${JSON.stringify(files)}.map((file) =>
          spawnPeer({ command: 'sleep', args: ['1000'], files: [file] }))
        console.log(JSON.stringify(peers.map(({ pid, dir }) => ({ pid, dir }))))
        setTimeout(() => { ${end} }, 10)`
      const owner = spawn(process.execPath, ['--input-type=module', '-e', code], {
        stdio: ['ignore', 'pipe', 'ignore'],
      })
      let printed = ''
      owner.stdout.on('data', (text) => {
        printed += text
      })
      await new Promise((resolve) => owner.once('exit', resolve))
      const peers = JSON.parse(printed) as { pid: number; dir: string }[]
      expect(peers).toHaveLength(2)
      await until(() => peers.every(({ pid, dir }) => !alive(pid) && !existsSync(dir)))
      await until(() => files.every((file) => !existsSync(file)))
    },
  )
})
