/**
 * What needs Node: stores in files.
 *
 * @example
 * const store = await FileBlockStore.open('disk.img', { readOnly: true })
 *
 * @packageDocumentation
 */
export { FileBlockStore, type FileBlockStoreOptions } from './file-block-store.ts'
