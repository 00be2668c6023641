"""Which server answers, over which link: endpoints, the pool of warm links, dialling, the retry rule."""
