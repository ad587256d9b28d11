"""Sweeps: many jobs by one command, composed and checked before the first starts.

`sweeping` calls the steps of a sweep. Before the first job: `composing` with its `composition_cache`, or without Hydra
`direct_jobs`, and `preflight`. The jobs run in processes of their own: `process_launcher`, with `preload`, and `job_process` in
there; or on other engines: `engine_side` where the sweep was started, `worker_side` where the job runs. `job_run` is the job
itself. Records: `job_record` of a job, `sweep_record` of the whole sweep, `server_config` for a model server. Output: `view`
and `summary`.
"""
