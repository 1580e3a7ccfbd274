"""A SLURM of one node on this machine, for as long as it is asked for

    python tests/slurm.py FOLDER     starts it, says how to reach it, and ends it at Ctrl-C

It needs `slurmctld`, `slurmd` and `munged` (Debian: apt install slurm-wlm munge) and root, and touches nothing outside its
folder.
"""
import os, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'sbatch', 'squeue')
SETTINGS = '''
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={port}
SlurmdPort={next}
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
'''

def why_not():
    "Why it cannot be had here; nothing if it can"
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if missing: return f'no {", ".join(missing)} here (Debian: apt install slurm-wlm munge)'
    if not hasattr(os, 'geteuid') or os.geteuid() != 0: return 'the daemons of SLURM need root'
    return ''

def two_free_ports():
    "A port that is free, and so is the next"
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(('127.0.0.1', 0))
            port = one.getsockname()[1]
            try: two.bind(('127.0.0.1', port + 1))
            except OSError: continue
            return port

def start_authentication(folder):
    key = folder/'munge.key'
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = [f'--key-file={key}', f'--socket={folder}/munge.socket', f'--pid-file={folder}/munged.pid',
             f'--log-file={folder}/munged.log', f'--seed-file={folder}/munge.seed']
    subprocess.run(['munged', '--force', *files], check=True)

def start_controller(env):
    "Start the daemon that holds the queue, or start it again"
    subprocess.run(['slurmctld', '-f', env['SLURM_CONF']], check=True, env=env)

def kill_controller(env):
    "What a crash of the login node does: no answer, and nothing is put in order before"
    file = Path(env['SLURM_CONF']).parent/'slurmctld.pid'
    os.kill(int(file.read_text()), signal.SIGKILL)

def start(folder):
    "The environment in which SLURM's commands find it"
    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    for name in ('state', 'spool'): (folder/name).mkdir(exist_ok=True)
    start_authentication(folder)
    host, port = socket.gethostname().split('.')[0], two_free_ports()
    settings = folder/'slurm.conf'
    settings.write_text(SETTINGS.format(host=host, folder=folder, port=port, next=port + 1))
    env = {**os.environ, 'SLURM_CONF': str(settings)}
    start_controller(env)
    subprocess.run(['slurmd', '-f', settings], check=True, env=env)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        said = subprocess.run(['sinfo', '-h', '-o', '%T'], env=env, capture_output=True, text=True).stdout
        if 'idle' in said: return env
        time.sleep(.5)
    raise RuntimeError(f'SLURM did not come up: see {folder}/slurmctld.log')

def stop(folder):
    "End the daemons that were started in a folder"
    for name in ('slurmd', 'slurmctld', 'munged'):
        file = Path(folder)/f'{name}.pid'
        if not file.is_file(): continue
        try: os.kill(int(file.read_text()), signal.SIGTERM)
        except (ProcessLookupError, ValueError): pass

@contextmanager
def slurm(folder):
    try: yield start(folder)
    finally: stop(folder)


if __name__ == '__main__':
    if why_not(): raise SystemExit(why_not())
    with slurm(sys.argv[1]) as env:
        print(f'export SLURM_CONF={env["SLURM_CONF"]}', flush=True)
        try: signal.pause()
        except KeyboardInterrupt: pass
