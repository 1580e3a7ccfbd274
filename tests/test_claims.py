"What a reader of the chapter on claims need not see: edge cases, and agreement with scipy on many draws"
import warnings
import numpy as np, pandas as pd, pytest
from scipy import stats
from hrtem_seg.experiments.claims import ALTERNATIVES, VERDICTS, claim, claims_table, draw_claims, gather, verdicts

@pytest.fixture
def rng(): return np.random.default_rng(5)

@pytest.mark.parametrize('n, m', [(2, 2), (3, 5), (5, 5), (7, 4)])
@pytest.mark.parametrize('margin', [0., -.3, .4])
def test_p_and_interval_are_scipys(rng, n, m, margin):
    a, b = rng.normal(.2, 1, n), rng.normal(0, 2, m)
    for alternative in ('greater', 'less', 'two-sided'):
        c = claim('s', 'c', a, b, alternative=alternative, margin=margin)
        t = stats.ttest_ind(a - margin, b, equal_var=False, alternative=alternative)
        assert c['p'] == pytest.approx(t.pvalue, rel=1e-9)
        ci = stats.ttest_ind(a, b, equal_var=False).confidence_interval(.95)
        assert (c['low'], c['high']) == pytest.approx((ci.low, ci.high), rel=1e-9)

def test_opposite_statements_mirror_each_other(rng):
    a, b = rng.normal(.5, 1, 5), rng.normal(0, 1, 6)
    up, down = (claim('s', 'c', a, b, alternative=k, margin=.1) for k in ('greater', 'less'))
    assert (up['p'], up['p_exact']) == (down['against'], down['against_exact'])
    swapped = claim('s', 'c', b, a, alternative='less', margin=-.1)
    assert swapped['p'] == pytest.approx(up['p']) and swapped['size'] == pytest.approx(-up['size']) and swapped['effect'] == pytest.approx(-up['effect'])

def test_shift_and_scale_change_nothing_but_the_units(rng):
    a, b = rng.normal(.9, .02, 5), rng.normal(.88, .02, 5)
    c, d = claim('s', 'c', a, b, margin=.01), claim('s', 'c', 100*a + 7, 100*b + 7, margin=1.)
    assert d['p'] == pytest.approx(c['p'], rel=1e-6) and d['size'] == pytest.approx(c['size'], rel=1e-6) and d['p_exact'] == c['p_exact']

@pytest.mark.parametrize('alternative', ALTERNATIVES)
@pytest.mark.parametrize('paired', [False, True])
@pytest.mark.parametrize('n', [1, 2])
def test_few_replicates_never_decide_and_never_warn(alternative, paired, n):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        c = claim('s', 'c', [.9, .91][:n], [.1, .12][:n], alternative=alternative, margin=.01, paired=paired)
        assert verdicts([c]).verdict.item() == 'undecided here'

def test_three_pairs_cannot_hold_and_five_can():
    a, b = np.array([.9, .91, .905, .912, .899]), np.array([.5, .52, .51, .49, .515])
    assert verdicts([claim('s', 'c', a[:3], b[:3], paired=True)]).verdict.item() == 'undecided here'   # three sign flips: p is 1/8 at best
    assert verdicts([claim('s', 'c', a, b, paired=True)]*25).verdict.eq('holds').all()

def test_no_effect_within_is_not_shown_by_noise():
    wide = claim('s', 'c', [.5, .9, .7, .3, .8], [.6, .8, .75, .4, .7], alternative='within', margin=.02)
    assert wide['p'] > .3 and verdicts([wide]).verdict.item() == 'undecided here'
    far = claim('s', 'c', [.9, .91, .89, .9, .905], [.5, .51, .49, .5, .505], alternative='within', margin=.02)
    assert verdicts([far]).verdict.item() == 'does not hold'

def test_a_constant_list_beside_one_that_varies_is_tested():
    c = claim('s', 'above a baseline without a seed', [.9, .91, .89, .9, .92], [.5]*5)
    assert c['p'] < 1e-4 and c['p_exact'] == pytest.approx(1/252)

def test_large_lists_are_drawn_from_the_seed(rng):
    a, b = rng.normal(.3, 1, 40), rng.normal(0, 1, 30)
    assert claim('s', 'c', a, b, seed=1) == claim('s', 'c', a, b, seed=1)
    assert claim('s', 'c', a, b)['p_exact'] == pytest.approx(claim('s', 'c', a, b)['p'], abs=.02)

def test_holm_counts_all_claims_and_never_lowers_a_p(rng):
    rows = [claim('s', str(i), rng.normal(.4*i, 1, 5), rng.normal(0, 1, 5)) for i in range(12)]
    t = verdicts(rows)
    assert (t.p_adjusted >= t.p).all() and t.p_adjusted.min() == pytest.approx(min(1, 12*t.p.min()))
    assert t.sort_values('p').p_adjusted.is_monotonic_increasing
    alone = verdicts(rows[-1:])
    assert alone.p_adjusted.item() == pytest.approx(rows[-1]['p'])

def test_whole_tables_are_wrong_no_more_often_than_alpha():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(60):
        rows = [claim('s', 'c', rng.normal(0, 1, 5), rng.normal(0, 1, 5)) for _ in range(6)]
        wrong += verdicts(rows).verdict.ne('undecided here').any()
    assert wrong <= 12   # two families at 0.05: six of 60 expected at most; more than twelve has p < 0.02

def test_claims_of_all_studies_come_back_from_their_files(rng, tmp_path):
    made = [claim(s, f'claim {i} of {s}', rng.normal(1, .3, 5), rng.normal(0, .3, 5), published=p) for s, p in (('dose', .02), ('size', 'about 0.05')) for i in range(3)]
    for s in ('dose', 'size'):
        (tmp_path/f'{s}-default').mkdir()
        verdicts([c for c in made if c['study'] == s]).to_csv(tmp_path/f'{s}-default/claims.csv', index=False)
    back, here = claims_table(tmp_path), verdicts(made)
    assert back.verdict.tolist() == here.verdict.tolist() and np.allclose(back.p_adjusted, here.p_adjusted)
    assert set(back.verdict) <= set(VERDICTS) and back.run.tolist() == ['dose-default']*3 + ['size-default']*3
    ax = draw_claims(back)
    assert [t.get_text() for t in ax.get_yticklabels()] == back.statement.tolist()

def test_tables_without_studies_are_refused_by_their_folder(tmp_path):
    for f in (claims_table, gather):
        with pytest.raises(FileNotFoundError, match=tmp_path.name): f(tmp_path)
