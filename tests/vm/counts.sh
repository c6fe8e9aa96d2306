# In the guest: each /t/exercise-VERSION does known things under watch, and what both sides counted is printed; each
# /t/crowd-VERSION stands still, and is dumped by both sides, each line with its dump's name before it.
./parkranger check 2>&1 | head -5
for program in exercise-*; do
  version=${program#exercise-}
  rm -f in answers top
  mkfifo in
  ./$program < in > answers & target=$!
  exec 3> in
  echo sites >&3
  tries=0; until [ -s answers ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
  ./parkranger top --json --budget off --interval 1s --pid $target > top & agent=$!
  tries=0; until [ -s top ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
  # The names are in the first answer: ..."spawn":["after-func","arguments",...]}
  names=$(sed -n '1s/.*"spawn":\[\([^]]*\)\].*/\1/p' answers | tr -d '"' | tr ',' ' ')
  expected=4
  for name in $names; do echo "spawn $name 200" >&3; expected=$((expected + 1)); done
  echo "park 5 20" >&3
  echo settle >&3
  echo stats >&3
  tries=0; until [ $(wc -l < answers) -ge $expected ] || [ $tries -gt 300 ]; do sleep 1; tries=$((tries + 1)); done
  kill -INT $agent
  wait $agent
  echo "STATS $version $(tail -n 1 answers)"
  echo "TOP $version $(tail -n 1 top)"
  echo quit >&3
  exec 3>&-
  wait $target
done
for program in crowd-*; do
  version=${program#crowd-}
  rm -f in answers own ours running
  mkfifo in
  ./$program < in > answers & target=$!
  exec 3> in
  echo gather >&3
  tries=0; until [ -s answers ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
  ./parkranger dump --pid $target -o ours
  echo "dump /tmp/own" >&3
  tries=0; until [ -s own ] || [ $tries -gt 60 ]; do sleep 1; tries=$((tries + 1)); done
  echo "spin on" >&3
  tries=0; until grep -A 6 '\[running\]' running | grep -q main.spinOuter || [ $tries -gt 20 ]; do
    sleep 1
    ./parkranger dump --pid $target -o running
    tries=$((tries + 1))
  done 2> /dev/null
  for what in ours own running; do sed "s/^/DUMP-$what $version |/" $what; done
  echo quit >&3
  exec 3>&-
  wait $target
done
