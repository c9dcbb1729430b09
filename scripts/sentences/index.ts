import { basics } from './basics.ts'
import { blk } from './blk.ts'
import { iommu } from './iommu.ts'
import { mmio } from './mmio.ts'
import { net } from './net.ts'
import { packedRing } from './packed-ring.ts'
import { pci } from './pci.ts'
import { type Chapter, type Sentence, sentencesOf } from './sentence.ts'
import { splitRing } from './split-ring.ts'

/** The normative sentences of virtio 1.4 about all that a driver and a device of our types have to do. */
export const chapters: readonly Chapter[] = [basics, splitRing, packedRing, pci, mmio, net, blk, iommu]

export const sentences: readonly Sentence[] = chapters.flatMap((chapter) => chapter.sections.flatMap(sentencesOf))
