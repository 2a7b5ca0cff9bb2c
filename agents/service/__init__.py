"""Tool calls shared out fairly over sandboxes, in this process or over HTTP."""
