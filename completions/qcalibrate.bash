# Made by `qcalibrate --print-page bash`; do not edit.
_qcalibrate() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  # --name=value comes as three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  case $prev in
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W "--help -h --version --text --field --tokens --windows -n --seqlen --seed --per-document --observer --percentile --observer-dtype --amax-history --margin --moe-all-experts --compute --batch-size --merge --imatrix --save-imatrix --list --output -o --force --stream --no-sync --resume --no-check --threads -j --max-memory --json --quiet -q --verbose -v --strict" -- "$cur"))
  else
    COMPREPLY=($(compgen -f -- "$cur"))
  fi
}
complete -o filenames -F _qcalibrate qcalibrate
