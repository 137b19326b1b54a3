#!/usr/bin/env bash
# Runs a static program, such as a Go test binary, as root in a throw-away virtual machine with one of Debian's kernels, and gives back its
# output and exit status: 124 if it took too long, 125 if the machine ended without a word (its console is printed then), 126 if there can be no
# machine here.
#
#   hack/vm.sh [-k KERNEL] [-l MODULE]... [-m MIB] [-t SECONDS] [-f PATH]... [-C DIR] PROGRAM [ARG...]
#
#   -k  5.10, 6.1 (default), 6.12 or newest: the cloud kernel of the Debian release that has it
#   -l  a kernel module to load first
#   -f  a file or folder that is at the same absolute path in the machine
#   -C  the folder in which the program is started
#
# The machine is emulated in software (no KVM), with a root file system in memory made of this machine's network tools. Kernels are downloaded
# once into $VM_CACHE (~/.cache/turnout-vm), not installed. Needs Debian, and its packages qemu-system-x86, kmod and cpio.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

kernel=6.1 memory=1536 limit=600 dir=/tmp paths=() modules=()
while getopts k:l:m:t:f:C: option; do
  case $option in
    k) kernel=$OPTARG ;;
    l) modules+=("$OPTARG") ;;
    m) memory=$OPTARG ;;
    t) limit=$OPTARG ;;
    f) paths+=("$(realpath "$OPTARG")") ;;
    C) dir=$(realpath "$OPTARG") ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
program=$(realpath "$1")
shift

declare -A suites=([5.10]=bullseye [6.1]=bookworm [6.12]=trixie [newest]=sid)
suite=${suites[$kernel]:-}
[ -n "$suite" ] || { echo "vm: kernel $kernel is none of 5.10, 6.1, 6.12 and newest" >&2; exit 2; }
cache=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/turnout-vm}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What tests look at the kernel with, and what they make trouble with.
tools='sh bash cat cp mv ls rm mkdir mount umount chmod stty sleep tr sed grep head tail cut wc sort env id uname kill true false date dd tar
  readlink mktemp timeout ip ss tc sysctl modprobe insmod lsmod ping nft conntrack ipset ipvsadm strace nsenter unshare
  iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore
  iptables-nft iptables-nft-save iptables-nft-restore ip6tables-nft ip6tables-nft-save ip6tables-nft-restore
  iptables-legacy iptables-legacy-save iptables-legacy-restore ip6tables-legacy ip6tables-legacy-save ip6tables-legacy-restore'

# fetch downloads the packages of the suite's cloud kernel, by lists of its own: the machine's configuration stays as it is.
fetch() {
  local mirror state=$scratch/apt options packages
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | sort | uniq -c | sort -rn | awk 'NR == 1 {print $2}')
  if [ -z "$mirror" ]; then # no lists yet
    apt-get update -qq
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' | sort | uniq -c | sort -rn | awk 'NR == 1 {print $2}')
  fi
  [ -n "$mirror" ] || { echo "vm: apt knows no mirror of Debian" >&2; return 1; }
  mkdir -p "$state/lists/partial" "$state/parts" "$1"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
  options=(-o "Dir::Etc::SourceList=$state/sources.list" -o "Dir::Etc::SourceParts=$state/parts" -o "Dir::State::Lists=$state/lists"
    -o "Dir::Cache::PkgCache=" -o "Dir::Cache::SrcPkgCache=" -o "Acquire::Languages=none" -o "APT::Sandbox::User=$(id -un)"
    -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 -o Acquire::Retries=1 -o APT::Update::Error-Mode=any)
  apt-get "${options[@]}" update -qq || return 1
  packages=$(apt-cache "${options[@]}" depends --recurse --important linux-image-cloud-amd64 | grep -oE '^linux-(image|binary|modules)-[0-9][^ ]*' | sort -u)
  [ -n "$packages" ] || return 1
  # shellcheck disable=SC2086
  (cd "$1" && apt-get "${options[@]}" download -qq $packages)
}

# copy puts files where they are on this machine, with the libraries that they need.
copy() {
  local file
  for file in "$@"; do
    cp -Lu --parents "$file" "$root" 2>/dev/null || continue
    { ldd "$file" 2>/dev/null || true; } | { grep -oE '/[^ ]+' || true; } | xargs -r cp -Lu --parents -t "$root"
  done
}

pack() { (cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet); }

# prepare makes the kernel and the root file system that all runs have in common.
prepare() {
  local tool found version release=$scratch/kernel
  root=$scratch/root
  for file in "$scratch"/packages/*.deb; do
    mkdir -p "$release"
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$release" --exclude './usr/share/*'
  done
  [ -d "$release/usr/lib/modules" ] || { mkdir -p "$release/usr/lib"; mv "$release/lib/modules" "$release/usr/lib/"; }
  version=$(basename "$release"/usr/lib/modules/*)
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{etc,dev,proc,sys,run,tmp,root,var} "$root/usr/lib/modules/$version"
  ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
  ln -s ../run "$root/var/run"
  cp "$release/usr/lib/modules/$version"/modules.* "$root/usr/lib/modules/$version/" 2>/dev/null || true
  (cd "$release/usr/lib/modules/$version" &&
    find kernel/net kernel/lib kernel/crypto kernel/arch kernel/drivers/net -name '*.ko*' -print0 2>/dev/null | xargs -0 cp --parents -t "$root/usr/lib/modules/$version")
  depmod -b "$root" "$version" 2>/dev/null || depmod -b "$root/usr" "$version"
  for tool in $tools; do
    found=$(type -P "$tool") || continue
    copy "$found"
  done
  copy /usr/lib/*-linux-gnu/xtables/* /etc/protocols /etc/services /etc/nsswitch.conf /etc/iproute2/*
  echo root:x:0:0:root:/root:/bin/sh >"$root/etc/passwd"
  echo root:x:0: >"$root/etc/group"
  echo 127.0.0.1 localhost >"$root/etc/hosts"
  cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm /run/netns /run/lock
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
sh /run.sh >/dev/ttyS1 2>&1 </dev/null
echo $? >/dev/ttyS2
echo b >/proc/sysrq-trigger
sleep 60
INIT
  chmod +x "$root/init"
  mkdir -p "$cache/$kernel"
  find "$release" -name 'vmlinuz*' -type f -print -quit | xargs -I{} cp {} "$cache/$kernel/vmlinuz"
  pack "$root" >"$cache/$kernel/root.new"
  mv "$cache/$kernel/root.new" "$cache/$kernel/root.cpio"
  rm -rf "$root" "$release" "$scratch/packages"
}

missing=$("$(dirname "$0")"/packages.sh qemu-system-x86_64=qemu-system-x86 cpio=cpio depmod=kmod ipvsadm=ipvsadm nft=nftables ip=iproute2 \
  iptables-nft=iptables ipset=ipset conntrack=conntrack)
for tool in qemu-system-x86_64 cpio depmod; do
  command -v "$tool" >/dev/null || { echo "vm: $(grep "^missing: $tool " <<<"$missing" || echo "missing: $tool")" >&2; exit 126; }
done
[ -e "$cache/$kernel/root.cpio" ] || fetch "$scratch/packages" >&2 || { echo "vm: no kernel of $suite could be downloaded" >&2; exit 126; }
[ -e "$cache/$kernel/root.cpio" ] || prepare

# The kernel unpacks archives that follow each other, one over the other.
mkdir -p "$scratch/run/tmp"
cp "$program" "$scratch/run/${program##*/}"
for path in "${paths[@]}"; do
  mkdir -p "$scratch/run${path%/*}"
  cp -a "$path" "$scratch/run$path"
done
{
  echo 'echo vm: started >/dev/ttyS0'
  [ ${#modules[@]} -eq 0 ] || printf 'modprobe %q || exit 125\n' "${modules[@]}"
  printf 'mkdir -p %q && cd %q && exec' "$dir" "$dir"
  printf ' %q' "/${program##*/}" "$@"
  echo
} >"$scratch/run/run.sh"
{ cat "$cache/$kernel/root.cpio"; pack "$scratch/run"; } >"$scratch/initrd"
rm -rf "$scratch/run"

# The processor lacks cmpxchg16b: qemu 7.2 emulates it wrongly, and kernels since 6.12 that were built by a newer compiler crash by it.
# Nor is it checked that the timer ticks while the kernel waits for it: on a busy machine the emulated one may not. A machine that ended before
# anything was run is started again: the emulation fails like that now and then.
for _ in 1 2 3; do
  ended=0
  timeout --foreground -k 5 "$limit" nice qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -cpu max,-cx16 -smp 2 -m "$memory" \
    -nodefaults -no-user-config -display none -no-reboot -kernel "$cache/$kernel/vmlinuz" -initrd "$scratch/initrd" \
    -append 'console=ttyS0 quiet panic=-1 reboot=t nokaslr mitigations=off no_timer_check' -serial "file:$scratch/console" \
    -chardev stdio,id=output,signal=off -serial chardev:output -serial "file:$scratch/status" </dev/null || ended=$?
  if [ "$ended" -ne 0 ] || grep -q 'vm: started' "$scratch/console"; then
    break
  fi
done
status=$({ cat "$scratch/status" 2>/dev/null || true; } | tr -dc '0-9')
[ -z "$status" ] || exit "$status"
[ "$ended" -ne 126 ] && [ "$ended" -ne 127 ] || { echo "vm: qemu-system-x86_64 cannot be run here" >&2; exit 126; }
echo "vm: no exit status (qemu: $ended); the last of the machine's console:" >&2
tail -n 40 "$scratch/console" >&2 || true
[ "$ended" -ne 124 ] || exit 124
exit 125
