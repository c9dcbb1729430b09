/**
 * What one chain may cost within a budget that counts chains: descriptors and pieces together, and bytes. A chain that
 * is larger counts as several. 64 KiB is a frame of the largest MTU; Linux sends block requests of 256 descriptors.
 */
export const CHAIN_STEPS = 64
export const CHAIN_BYTES = 65536
