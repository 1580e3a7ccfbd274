"""A disk that two nodes share, on this machine, for as long as it is asked for: GlusterFS with one server and two mounts

    python tests/network_disk.py FOLDER     mounts FOLDER/a and FOLDER/b, and takes them away at Ctrl-C

Each mount is a client of its own, which reaches the files and their locks through the server only, as a node of a cluster
does. It needs `glusterfs` and `glusterfsd` (Debian: apt install glusterfs-server), FUSE and root, and touches nothing outside
its folder.
"""
import os, shutil, signal, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path

SERVER = '''
volume files
  type storage/posix
  option directory {folder}/server
end-volume
volume disk
  type features/locks
  subvolumes files
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port {port}
  option auth.addr.disk.allow 127.0.0.1
  subvolumes disk
end-volume
'''
CLIENT = '''
volume disk
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume disk
end-volume
'''
NODES = ('a', 'b')

def why_not():
    "Why it cannot be had here; nothing if it can"
    missing = [p for p in ('glusterfs', 'glusterfsd') if shutil.which(p) is None]
    if missing: return f'no {", ".join(missing)} here (Debian: apt install glusterfs-server)'
    if not Path('/dev/fuse').exists(): return 'no FUSE here'
    if os.geteuid() != 0: return 'mounting needs root'
    return ''

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def daemon(folder, program, name, *options):
    "Start a program that goes to the background, and keeps its number in NAME.pid"
    files = ['-f', folder/f'{name}.vol', '-l', folder/f'{name}.log', '-p', folder/f'{name}.pid']
    subprocess.run([program, *files, *options], check=True)

def wait_for_mount(point):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if point.is_mount() and os.access(point, os.W_OK): return
        time.sleep(.1)
    raise RuntimeError(f'{point} was not mounted: see {point}.log')

def mount(folder, node):
    point = folder/node
    point.mkdir(exist_ok=True)
    shutil.copy(folder/'client.vol', folder/f'{node}.vol')
    daemon(folder, 'glusterfs', node, point)
    wait_for_mount(point)
    return point

def end(folder, name, how=signal.SIGTERM):
    "End a program that `daemon` started"
    file = folder/f'{name}.pid'
    try: os.kill(int(file.read_text()), how)
    except (FileNotFoundError, ProcessLookupError, ValueError): pass

@contextmanager
def network_disk(folder):
    "The paths of one disk on two nodes"
    folder = Path(folder).absolute()
    (folder/'server').mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder/'server.vol').write_text(SERVER.format(folder=folder, port=port))
    (folder/'client.vol').write_text(CLIENT.format(port=port))
    daemon(folder, 'glusterfsd', 'server')
    try: yield [mount(folder, node) for node in NODES]
    finally:
        for node in NODES: subprocess.run(['umount', '--lazy', folder/node], stderr=subprocess.DEVNULL)
        for name in (*NODES, 'server'): end(folder, name)


if __name__ == '__main__':
    if why_not(): raise SystemExit(why_not())
    with network_disk(sys.argv[1]) as nodes:
        print(*nodes, flush=True)
        try: signal.pause()
        except KeyboardInterrupt: pass
