import { type FileHandle, open } from 'node:fs/promises'
import { type BlockRequest, type BlockStore, DeviceError } from '@guestdma/devices'
import { BLK_S_IOERR, BLK_S_OK, SECTOR_SIZE } from '@guestdma/spec'

/** Options of {@link FileBlockStore.open}. */
export interface FileBlockStoreOptions {
  /**
   * Opens the file for reading only; every write then ends with IOERR. Make the device read-only as well. Defaults to
   * false.
   */
  readonly readOnly?: boolean
}

/**
 * A block store in a file (a raw image): asynchronous, so a device completes its requests in later polls. FLUSH is
 * `fsync`.
 *
 * @example
 * await using store = await FileBlockStore.open('disk.img')
 * const disk = new BlkDevice({ name: 'disk', port, store, onWork: () => schedule() })
 */
export class FileBlockStore implements BlockStore, AsyncDisposable {
  readonly path: string
  readonly capacity: number
  readonly readOnly: boolean
  private readonly file: FileHandle
  private readonly running = new Set<Promise<void>>()
  private closing: Promise<void> | null = null

  private constructor(path: string, file: FileHandle, capacity: number, readOnly: boolean) {
    this.path = path
    this.file = file
    this.capacity = capacity
    this.readOnly = readOnly
  }

  /**
   * Opens an existing file.
   *
   * @throws DeviceError `STORE_CAPACITY` unless its length is a positive multiple of 512 bytes; what `open` of
   *   node:fs/promises throws
   */
  static async open(path: string, { readOnly = false }: FileBlockStoreOptions = {}): Promise<FileBlockStore> {
    const file = await open(path, readOnly ? 'r' : 'r+')
    try {
      const { size } = await file.stat()
      if (size === 0 || size % SECTOR_SIZE !== 0) {
        const message = `${size} bytes must be a positive multiple of ${SECTOR_SIZE}`
        throw new DeviceError('STORE_CAPACITY', path, message, { length: size })
      }
      return new FileBlockStore(path, file, size, readOnly)
    } catch (error) {
      await file.close()
      throw error
    }
  }

  read(request: BlockRequest): void {
    this.run(request, () => this.fill(request))
  }

  write(request: BlockRequest): void {
    this.run(request, () => this.empty(request))
  }

  flush(request: BlockRequest): void {
    this.run(request, () => this.file.sync())
  }

  /** Waits for what is running, then closes the file. Later requests end with IOERR. May be called again. */
  close(): Promise<void> {
    this.closing ??= Promise.allSettled(this.running).then(() => this.file.close())
    return this.closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  private run(request: BlockRequest, operation: () => Promise<void>): void {
    if (this.closing !== null) {
      request.done(BLK_S_IOERR)
      return
    }
    const running = operation().then(
      () => request.done(BLK_S_OK),
      () => request.done(BLK_S_IOERR),
    )
    this.running.add(running)
    void running.then(() => this.running.delete(running))
  }

  // A file may give less than it is asked for; one that became shorter gives nothing.
  private async fill({ data, sector }: BlockRequest): Promise<void> {
    for (let at = 0; at < data.length; ) {
      const { bytesRead } = await this.file.read(data, at, data.length - at, sector * SECTOR_SIZE + at)
      if (bytesRead === 0) throw new DeviceError('STORE_FILE', this.path, 'the file became shorter', { sector, at })
      at += bytesRead
    }
  }

  private async empty({ data, sector }: BlockRequest): Promise<void> {
    for (let at = 0; at < data.length; ) {
      const { bytesWritten } = await this.file.write(data, at, data.length - at, sector * SECTOR_SIZE + at)
      if (bytesWritten === 0) throw new DeviceError('STORE_FILE', this.path, 'the file takes no more', { sector, at })
      at += bytesWritten
    }
  }
}
