import { writeFileSync } from 'node:fs'
import { NodeError } from '@guestdma/node'
import { directScheme, onDeviceScheme, sharedPoolScheme } from 'guestdma'
import { describe, expect, it } from 'vitest'
import { IvshmemRegion, launchQemu, type MachineType, type Qemu, type QemuOptions } from '../src/index.ts'
import { auditedPool, auditedRam, machineOf, missing, overMmio, overPci, pattern, titled } from './support/machines.ts'

const MIB = 1 << 20
const DISK = 4 * MIB
const noX86 = missing('qemu-system-x86_64')
const noArm = missing('qemu-system-aarch64')

/** A disk of zeroes that keeps what is written, without a file. */
const DRIVE = ['-drive', `if=none,id=d0,driver=null-co,size=${DISK},read-zeroes=on`]
const USER_NET = ['-netdev', 'user,id=n0,restrict=on']
/** An ARP request for the gateway of QEMU's own network, which answers it. */
const ARP = Uint8Array.from([
  ...[255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
  ...[0x52, 0x54, 0, 0x12, 0x34, 0x56, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
])

/** Arguments for a disk in a file of QEMU's folder, which it makes itself. */
const diskIn = (file: string): string[] => ['-drive', `if=none,id=d0,format=raw,file=${file}`]
