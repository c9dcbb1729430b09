/**
 * What needs Node: stores in files.
 *
 * @packageDocumentation
 */
export { FileBlockStore, type FileBlockStoreOptions } from './file-block-store.ts'
