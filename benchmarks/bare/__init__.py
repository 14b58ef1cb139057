"""The shortest programs that train as our modes do, one per API. Run as modules: TF_CONFIG says who a process is."""
