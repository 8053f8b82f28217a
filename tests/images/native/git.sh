#!/bin/sh
# A repository made, committed to, branched, merged, cloned and fetched from; one line for each thing done.
set -eu
cd /agent/runtime
git -c init.defaultBranch=main init -q work
cd work
echo one >file
git add file
git commit -qm "Add a file"
git switch -qc topic
echo two >>file
git commit -qam "Lengthen it"
git switch -q main
git merge -q --no-ff -m "Merge topic" topic
echo "commits: $(git rev-list --count HEAD)"
# As over a network: a child process packs, another unpacks.
git clone -q "file://$PWD" ../clone
echo "clone: $(cat ../clone/file | tr '\n' ' ')"
echo three >>file
git commit -qam "Lengthen it again"
git -C ../clone pull -q
echo "pull: $(git -C ../clone log -1 --format=%s)"
git gc -q
echo "gc: $(git count-objects -v | sed -n 's/^packs: //p') pack"
git fsck --strict 2>&1 && echo "fsck: clean"
