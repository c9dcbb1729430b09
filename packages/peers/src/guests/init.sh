#!/bin/busybox sh
# All that runs in a guest. The kernel's command line says what is to be done, and a line is printed for each result:
#   work=STEP,STEP...        the functions below, in this order
#   address=A other=B        of this guest and of the other one on the network
# A line begins with RESULT and the name of the result. All lines go to /report as well.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc p /proc
mount -t sysfs s /sys
mount -t devtmpfs d /dev
for module in $(cat /modules); do insmod "/lib/$module"; done

result() { echo "RESULT $*" | tee -a /report; }
hash() { sha256sum "$1" | cut -d ' ' -f 1; }

# From here on a probe sums up what the kernel copies to and from bounce buffers.
do_probe() {
  mount -t tracefs t /sys/kernel/tracing
  cd /sys/kernel/tracing
  echo 'p:bounce swiotlb_bounce bytes=%x2' > kprobe_events
  echo 'hist:keys=common_type:values=bytes' > events/kprobes/bounce/trigger
  cd /
}
do_copied() {
  # shellcheck disable=SC2046 # Words of its own.
  set -- $(sed -n 's/.*hitcount: *\([0-9]*\) *bytes: *\([0-9]*\).*/\1 \2/p' /sys/kernel/tracing/events/kprobes/bounce/hist)
  result copies "${1:-0}"
  result copied "${2:-0}"
}

# Memory that held a secret, and that is free again.
do_secret() {
  mount -t tmpfs t /mnt
  yes "$secret" | head -c 50000000 > /mnt/secret
  rm /mnt/secret
  umount /mnt
  result freed 50000000
}

# The whole first disk.
do_read() { result read "$(hash /dev/vda)"; }

# A part of the first disk to the second, several requests at once.
do_copy() {
  for part in 0 1 2 3; do
    dd if=/dev/vda of=/dev/vdb bs=4k count=512 seek=$((part * 512)) skip=$((part * 512)) oflag=direct iflag=direct 2>/dev/null &
  done
  wait
  result copy done
}

# A file and many small ones in the file system that somebody made on a disk.
files() {
  mount -t "$1" "$2" /mnt && result mounted "$1"
  dd if=/dev/vda of=/mnt/copy bs=64k count=128 conv=fsync 2>/dev/null
  mkdir /mnt/d
  for i in $(seq 1 100); do echo "file $i" > "/mnt/d/$i"; done
  sync
  echo 3 > /proc/sys/vm/drop_caches
  result file "$(hash /mnt/copy)"
  umount /mnt && result unmounted "$1"
}
do_files() { files ext4 /dev/vdc; }

# The same in a file system that is made and checked here.
do_mkfs() {
  mke2fs -q /dev/vdb
  files ext4 /dev/vdb
  e2fsck.static -fn /dev/vdb > /dev/null
  result fsck $?
}

# The first two disks in turns, in blocks of 4 KiB at random places and of 1 MiB in order: bytes and microseconds of each.
do_speed() {
  for disk in vda vdb; do result $disk "$(hash /dev/$disk)"; done
  for round in $(seq 1 9); do
    for disk in vda vdb; do
      result "random-$disk-$round" "$(disk-read /dev/$disk random 4096 400)"
      result "sequential-$disk-$round" "$(disk-read /dev/$disk sequential 1048576 400)"
    done
  done
  result rounds "$round"
}

# What was printed so far, at 20 MiB of the second disk: a serial port of QEMU's says nothing after some stops.
do_report() { dd if=/report of=/dev/vdb bs=512 seek=40960 conv=sync 2>/dev/null; }

# The other guest, which does the same at the same time: pings, and files in both directions.
do_net() {
  ip link set eth0 up
  ip address add "$address/24" dev eth0
  dd if=/dev/urandom of=/served bs=64k count=64 2>/dev/null
  result served "$(hash /served)"
  httpd -p 80 -h /
  until ping -c 1 -W 1 "$other" > /dev/null; do :; done
  for size in 56 1400 8000; do
    answers=0
    # One by one, as busybox waits long for the first answer alone.
    for i in $(seq 1 10); do ping -c 1 -W 10 -s $size "$other" > /dev/null && answers=$((answers + 1)); done
    result pinged $size $answers
  done
  until wget -q -O /fetched "http://$other/served"; do sleep 0.1; done
  result fetched "$(hash /fetched)"
}
# The other guest may still need this one.
do_stay() { while :; do sleep 60; done; }

# shellcheck disable=SC2154 # The kernel hands its command line over.
for step in $(echo "$work" | tr ',' ' '); do "do_$step"; done
sync
poweroff -f
