// Where things are in this machine's address space: shared by the emulator and the firmware, as a board's manual would
// be.

export const INTERRUPTS = 0x0c00_0000
export const CONSOLE = 0x1000_0000
export const BLK = 0x1000_1000
export const NET = 0x1000_2000
export const RAM = 0x8000_0000
export const RAM_BYTES = 0x10_0000

// The firmware's own plan of its RAM. Each queue takes a page: descriptors, available ring at 0x200, used ring at
// 0x400.
export const BLK_QUEUE: number = RAM + 0x1_0000
export const RECEIVE_QUEUE: number = RAM + 0x1_1000
export const TRANSMIT_QUEUE: number = RAM + 0x1_2000
export const AVAILABLE = 0x200
export const USED = 0x400
export const QUEUE_SIZE = 16

export const BLK_HEADER: number = RAM + 0x2_0000
export const BLK_STATUS: number = RAM + 0x2_0100
export const SECTOR_IN: number = RAM + 0x2_1000
export const SECTOR_OUT: number = RAM + 0x2_2000
export const RECEIVE_BUFFER: number = RAM + 0x3_0000
export const TRANSMIT_BUFFER: number = RAM + 0x3_1000
