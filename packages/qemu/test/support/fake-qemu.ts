import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const PROGRAM = `#!${process.execPath}
const net = require('node:net')
const path = (name) => process.argv[process.argv.indexOf('-' + name) + 1].slice('unix:'.length)
const connect = (name, line) => {
  const socket = net.connect(path(name))
  let text = ''
  socket.on('data', (bytes) => {
    text += bytes
    for (let end; (end = text.indexOf('\\n')) >= 0; text = text.slice(end + 1)) line(socket, text.slice(0, end))
  })
  return socket
}
`

/** A program that is started like QEMU and behaves as `body` says, which has \`connect(name, onLine)\`. */
export function fakeQemu(body: string): { command: string; remove(): void } {
  const dir = mkdtempSync(join(tmpdir(), 'guestdma-fake-'))
  const command = join(dir, 'fake-qemu.cjs')
  writeFileSync(command, PROGRAM + body)
  chmodSync(command, 0o755)
  return { command, remove: () => rmSync(dir, { recursive: true }) }
}

/** The QMP half of a QEMU of this version. */
export function greets(version: string): string {
  const [major, minor, micro] = version.split('.')
  const greeting = `{"QMP":{"version":{"qemu":{"major":${major},"minor":${minor},"micro":${micro}},"package":""}}}`
  return `
    connect('qmp', (socket, line) => socket.write('{"return":{},"id":' + JSON.parse(line).id + '}\\n')).write('${greeting}\\n')
  `
}
