// Connectionist temporal classification: a block for each sequence, a thread for every THREADS-th of its states.
// `forward`, `backward` and `posterior` are written in front of this text from lossreg/ops/ctc.py.
//
// Set before this text, beside what prelude.cu needs: IN and OUT, as guesses and gradients lie in memory; LOGITS, whether
// the gradient is that in the logits.

// Three rows of scratch memory for a sequence, with two cells of -infinity in front of each and behind it.
__device__ inline double* cells(double* scratch, index_t width, int row) { return scratch + row * (width + 4) + 2; }

// Whether a state is the first of its label; of the blank that is state 0, also where targets are padded with it.
__device__ inline bool leads(index_t s, const index_t* states, const index_t* onward) {
    return s == 0 || (s % 2 && onward[s] >= 0 && states[s] != states[0]);
}

extern "C" __global__ void __launch_bounds__(THREADS) run(
    index_t sequences, index_t classes, index_t width, index_t time,
    const void* probs, index_t probs_time, index_t probs_sequence,
    const void* all_states, const void* all_can_skip, const void* all_frames, const void* all_last,
    void* likelihoods, const void* grads, void* out, index_t out_time, index_t out_sequence,
    double* alphas, double* scratches, index_t* all_next
) {
    for (index_t n = blockIdx.x; n < sequences; n += gridDim.x) {
        const index_t* states = (const index_t*)all_states + n * width;
        const unsigned char* can_skip = (const unsigned char*)all_can_skip + n * width;
        const index_t frames = ((const index_t*)all_frames)[n], last = ((const index_t*)all_last)[n];
        double* history = alphas + n * time * width;
        double* scratch = scratches + n * 3 * (width + 4);
        double* here = cells(scratch, width, 0);
        double* next = cells(scratch, width, 1);
        double* fractions = cells(scratch, width, 2);
        index_t* onward = all_next + n * width;  // the next state of a label, or 0; -1 - that where one came before
        wait();
        for (index_t s = (index_t)threadIdx.x - 2; s < width + 2; s += THREADS)
            here[s] = next[s] = s == 0 ? 0.0 : -infinity();
        wait();

        // forward: before the first frame the path stands in the first state
        for (index_t t = 0; t < frames; t++) {
            const IN* row = row_of<IN>(probs, t, probs_time);
            row = row_of<IN>(row, n, probs_sequence);
            for (index_t s = threadIdx.x; s < width; s += THREADS) {
                next[s] = forward(here[s], here[s - 1], here[s - 2], can_skip[s] != 0, wide(row[states[s]]));
                if (out) history[t * width + s] = next[s];
            }
            wait();
            double* swap = here; here = next; next = swap;
        }
        const double likelihood = backward(here[last], here[last - 1], -infinity(), false);
        if (threadIdx.x == 0) ((double*)likelihoods)[n] = likelihood;
        if (!out) continue;

        const double scale = ((const double*)grads)[n];  // of the gradient of the sequence
        const bool has_gradient = scale != 0.0 && likelihood != -infinity();
        wait();
        for (index_t s = (index_t)threadIdx.x - 2; s < width + 2; s += THREADS) here[s] = next[s] = -infinity();
        for (index_t s = threadIdx.x; s < width; s += THREADS) {
            index_t after = 0;
            bool first = true;
            for (index_t r = s + 2; r < width && !after; r += 2) after = states[r] == states[s] ? r : 0;
            for (index_t r = s - 2; r >= 0 && first; r -= 2) first = states[r] != states[s];
            onward[s] = first ? after : -1 - after;
        }
        wait();

        // backward: `here` holds what follows a frame
        for (index_t t = time - 1; t >= 0; t--) {
            OUT* grad = row_of<OUT>(out, t, out_time);
            grad = row_of<OUT>(grad, n, out_sequence);
            if (!has_gradient || t >= frames) {
                for (index_t c = threadIdx.x; c < classes; c += THREADS) grad[c] = Stored<OUT>::of(0.0);
                continue;
            }
            const IN* row = row_of<IN>(probs, t, probs_time);
            row = row_of<IN>(row, n, probs_sequence);
            double sum = 0.0, blanks = 0.0;
            for (index_t s = threadIdx.x; s < width; s += THREADS) {
                const bool to_second = s + 2 < width && can_skip[s + 2] != 0;
                const double beta = t == frames - 1
                    ? (s == last || s == last - 1 ? 0.0 : -infinity())
                    : backward(here[s], here[s + 1], here[s + 2], to_second);
                const double fraction = posterior(history[t * width + s], beta, likelihood);
                next[s] = beta + wide(row[states[s]]);  // with its own emission, for the frame before
                fractions[s] = fraction;
                sum += fraction;
                if (s % 2 == 0) blanks += fraction;
            }
            sum = of_block(sum, Add());
            blanks = of_block(blanks, Add());
            // the first state of a label has its gradient, and state 0 that of the blank: read before anything is stored,
            // since gradients may lie where guesses do
            for (index_t s = threadIdx.x; s < width; s += THREADS) {
                if (!leads(s, states, onward)) continue;
                double of_class = s ? fractions[s] : blanks;
                for (index_t r = s ? onward[s] : 0; r; r = -1 - onward[r]) of_class += fractions[r];
                fractions[s] = scale * ((LOGITS ? f_exp(wide(row[states[s]])) * sum : 0.0) - of_class);
            }
            wait();
            for (index_t c = threadIdx.x; c < classes; c += THREADS)
                grad[c] = Stored<OUT>::of(LOGITS ? scale * (f_exp(wide(row[c])) * sum) : 0.0);
            wait();
            for (index_t s = threadIdx.x; s < width; s += THREADS)
                if (leads(s, states, onward)) grad[states[s]] = Stored<OUT>::of(fractions[s]);
            double* swap = here; here = next; next = swap;
        }
    }
}
