"""HTTP/1.1 over asyncio: reads requests within limits and writes whole answers. llhttp parses.

Knows nothing about models, images or what a path means.
"""
