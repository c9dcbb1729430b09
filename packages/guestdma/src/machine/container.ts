// tsyringe looks for this polyfill when it is loaded, so both are loaded here and in this order.
import 'reflect-metadata'
import { container, instancePerContainerCachingFactory } from 'tsyringe'

export { container, instancePerContainerCachingFactory }
