"""The shortest programs that train as our modes do, one per API. They run as modules, and read TF_CONFIG."""
