"""A real network on one machine: a star of network namespaces with shaped links, a provider process in each."""
